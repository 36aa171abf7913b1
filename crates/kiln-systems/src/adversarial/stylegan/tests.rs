use burn::tensor::Device;
use kiln_nn::tensor::to_values;
use kiln_train::params;

use super::*;
use crate::adversarial::testing::{batch, close, overfit};

fn tiny(configuration: Configuration) -> Config {
    Config { configuration, latent_size: 8, channel_base: 64, channel_max: 8, growth: 0.0, ..Config::default() }
}

fn system(config: Config, [h, w]: [usize; 2]) -> Result<StyleGan> {
    StyleGan::new(config, &Pictures::new([1, h, w], Vec::new()))
}

use Configuration::{A, B, C, D, E, F};

#[test]
fn each_row_of_the_table_adds_its_part() {
    let device = Device::flex();
    let paths = |row| {
        let s = system(tiny(row), [16, 16]).unwrap();
        params::state(&s.networks(&mut Init::new(&device, 0))).into_keys().collect::<Vec<_>>()
    };
    let has = |row, part: &str| paths(row).iter().any(|path| path.contains(part));
    for (part, from) in [("mapping.layers", C), ("style", C), ("constant", D), ("strength", E)] {
        for row in [A, B, C, D, E, F] {
            let found = has(row, part) && part != "constant" || has(row, "synthesis.constant") && part == "constant";
            assert_eq!(found, row >= from, "{part} in {row:?}");
        }
    }
    assert!(has(C, "project") && !has(D, "project"));
    assert_eq!(paths(E), paths(F));
    let growth = |row| system(Config { growth: 0.5, ..tiny(row) }, [16, 16]).unwrap().growth.at(0, 100);
    assert_eq!([A, B, F].map(growth), [Level::whole(0), Level::whole(1), Level::whole(1)]);
}

#[test]
fn each_player_wins_a_fixed_batch_it_plays_alone() {
    for row in [A, B, C, F] {
        let mut s = system(tiny(row), [16, 16]).unwrap();
        for (phase, rate) in [(0, 5e-3), (1, 1e-2)] {
            let (first, last) = overfit(&mut s, phase, rate, 40, &batch(8, [1, 16, 16], 0));
            assert!(last < first - 0.2 * first.abs(), "{row:?} {phase}: {first} to {last}");
        }
    }
}

/// Samples of a run that still grows have the run's size, and only the layers in use change them.
#[test]
fn a_growing_run_has_pictures_of_its_size() {
    let device = Device::flex();
    let mut s = system(Config { growth: 1.0, ..tiny(F) }, [16, 24]).unwrap();
    let n = s.networks(&mut Init::new(&device, 0));
    let request = Request::new(0..2, 1, &device);
    for level in [Level::whole(1), Level { size: 2, fade: 0.5 }, Level::whole(2)] {
        s.restore(level.state());
        let images = s.generate(&n, &request).unwrap();
        assert_eq!(images.dims(), [2, 1, 16, 24]);
        let values = to_values(images.clone());
        let same = values.chunks(24).all(|row| row.chunks(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(same, level.size == 1);
        let latents = s.latents(&n, &request).unwrap();
        close(&to_values(s.decode(&n, latents).unwrap()), &values, 1e-5);
    }
    // A level that the networks do not have is none.
    s.restore(Level::whole(9).state());
    assert_eq!(s.level.size, 2);
}
