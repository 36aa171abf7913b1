//! What a run shows of itself: a grid on fixed seeds.

use burn::tensor::{Device, Tensor};
use kiln_core::Result;
use kiln_data::{Picture, contact_sheet};
use kiln_nn::tensor::to_values;

use crate::ability::Abilities;
use crate::request::{Request, Style};

/// `[n, c, h, w]` in [−1, 1] as pictures.
pub fn pictures(images: Tensor<4>) -> Vec<Picture> {
    let [_, c, h, w] = images.dims();
    to_values(images).chunks(c * h * w).map(|values| Picture::from_unit(values, c, h, w)).collect()
}

/// Red, green and blue from 0 to 1 of a class: grey for the first, and hues far apart.
pub fn class_colour(class: usize) -> [f32; 3] {
    if class == 0 {
        return [0.25; 3];
    }
    // The golden angle: no two of a few classes are near each other.
    let hue = class as f32 * 0.381_966 % 1.0;
    [0.0, 2.0 / 3.0, 1.0 / 3.0].map(|at| (((hue + at) % 1.0 * 6.0 - 3.0).abs() - 1.0).clamp(0.1, 0.95))
}

/// Maps of classes, one number a pixel and each of height and width `[h, w]`, in [`class_colour`].
pub fn class_maps(classes: &[usize], [h, w]: [usize; 2]) -> Vec<Picture> {
    let channels = |map: &[usize]| -> Vec<f32> {
        (0..3).flat_map(|c| map.iter().map(move |&class| 2.0 * class_colour(class)[c] - 1.0)).collect()
    };
    classes.chunks(h * w).map(|map| Picture::from_unit(&channels(map), 3, h, w)).collect()
}

/// The preview of a system: samples if it generates, else input beside output of its translation, inpainting, reconstruction
/// or segmentation of `examples` (one tensor a domain). `None` if it does none of these.
///
/// # Errors
/// If the system fails.
pub fn preview<N>(
    abilities: &Abilities<'_, N>,
    networks: &N,
    examples: &[Tensor<4>],
    count: usize,
    seed: u64,
    device: &Device,
) -> Result<Option<Picture>> {
    if let Some(generate) = abilities.generate {
        let request = Request::new(0..count as u64, seed, device);
        let made = pictures(generate.generate(networks, &request)?);
        let columns = (count as f64).sqrt().ceil() as usize;
        return contact_sheet(&made, columns, 1).map(Some);
    }
    if let Some(translate) = abilities.translate {
        let mut rows = Vec::new();
        let scale = translate.scale();
        if let ([contents, styles, ..], true) = (examples, translate.needs_style()) {
            rows.extend(pictures(contents.clone()));
            rows.extend(pictures(styles.clone()));
            let n = contents.dims()[0].min(styles.dims()[0]);
            for i in 0..n {
                let one = |images: &Tensor<4>| images.clone().narrow(0, i, 1);
                let mut request = Request::new(i as u64..i as u64 + 1, seed, device);
                request.condition.styles = vec![Style { image: one(styles), weight: 1.0 }];
                rows.extend(pictures(translate.translate(networks, one(contents), &request)?));
            }
            return contact_sheet(&rows, n.max(1), 1).map(Some);
        }
        for (direction, images) in translate.directions().into_iter().zip(examples) {
            // Enlarged where the translation is larger.
            rows.extend(pictures(images.clone()).into_iter().map(|p| p.resize(p.width * scale, p.height * scale)));
            let request = Request::new(0..images.dims()[0] as u64, seed, device).along(direction);
            rows.extend(pictures(translate.translate(networks, images.clone(), &request)?));
        }
        let columns = examples.first().map_or(1, |e| e.dims()[0]);
        return contact_sheet(&rows, columns, 1).map(Some);
    }
    if let (Some(inpaint), Some(images)) = (abilities.inpaint, examples.first()) {
        let n = images.dims()[0];
        let request = Request::new(0..n as u64, seed, device);
        let mut rows = pictures(images.clone());
        rows.extend(pictures(inpaint.inpaint(networks, images.clone(), &request)?));
        return contact_sheet(&rows, n, 1).map(Some);
    }
    if let (Some(reconstruct), Some(images)) = (abilities.reconstruct, examples.first()) {
        let parts = reconstruct.parts();
        let domains = if parts.len() > 1 { examples } else { &examples[..1] };
        let mut rows = Vec::new();
        for (domain, images) in domains.iter().enumerate() {
            rows.extend(pictures(images.clone()));
            for part in &parts {
                rows.extend(pictures(reconstruct.reconstruct_part(networks, images.clone(), part, domain)?));
            }
        }
        return contact_sheet(&rows, images.dims()[0], 1).map(Some);
    }
    if let (Some(segment), Some(first)) = (abilities.segment, examples.first()) {
        let mut rows = Vec::new();
        for images in examples {
            let [_, _, h, w] = images.dims();
            rows.extend(pictures(images.clone()));
            let classes = to_values(segment.segment(networks, images.clone())?.argmax(1).float());
            rows.extend(class_maps(&classes.into_iter().map(|class| class as usize).collect::<Vec<_>>(), [h, w]));
        }
        return contact_sheet(&rows, first.dims()[0], 1).map(Some);
    }
    Ok(None)
}
