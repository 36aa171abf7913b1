//! Weights by formula: the same numbers as tests/reference/hashed.py, which explains it.

#[path = "../../../../tests/reference/hashed.rs"]
mod formula;

use std::collections::BTreeMap;
use std::path::Path;

use formula::uniform;
use kiln_features::WeightsFile;
use serde_json::{Map, Value, json};

/// What a tensor makes of uniform numbers.
fn values(name: &str, shape: &[usize]) -> Box<dyn Iterator<Item = f64>> {
    let u = uniform(name, shape.iter().product());
    if name.starts_with("lin") {
        Box::new(u)
    } else if shape.len() > 1 {
        let bound = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
        Box::new(u.map(move |u| (2.0 * u - 1.0) * bound))
    } else if name.ends_with("running_var") || name.ends_with("weight") {
        Box::new(u.map(|u| 0.5 + u))
    } else {
        Box::new(u.map(|u| 0.2 * u - 0.1))
    }
}

/// A safetensors file of a network whose layout the reference script wrote down.
pub fn network(layout: &str) -> WeightsFile {
    WeightsFile::from_bytes(layout, safetensors(&shapes(layout))).unwrap()
}

/// Names and shapes of a network's tensors.
pub fn shapes(layout: &str) -> BTreeMap<String, Vec<usize>> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference/fixtures");
    let layouts = ["features", "efficientnet"].map(|topic| -> BTreeMap<String, BTreeMap<String, Vec<usize>>> {
        serde_json::from_slice(&std::fs::read(fixtures.join(format!("{topic}.layouts.json"))).unwrap()).unwrap()
    });
    layouts.into_iter().find_map(|mut layouts| layouts.remove(layout)).unwrap()
}

/// The file's bytes.
pub fn safetensors(shapes: &BTreeMap<String, Vec<usize>>) -> Vec<u8> {
    let (mut header, mut end) = (Map::<String, Value>::new(), 0);
    for (name, shape) in shapes {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.reserve(header.len() + end);
    bytes.extend(header.bytes());
    for (name, shape) in shapes {
        values(name, shape).for_each(|v| bytes.extend((v as f32).to_le_bytes()));
    }
    bytes
}
