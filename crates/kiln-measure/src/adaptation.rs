//! Proxy A-distance: how well a linear classifier separates the features of two domains.
//!
//! Ben-David et al. 2007, *Analysis of Representations for Domain Adaptation*, section 5:
//!
//! d_A = 2 (1 − 2ε),
//!
//! ε the error of a linear classifier between the domains on unseen images: 2 when a plane separates them, 0
//! when they are mixed. A classifier worse than chance shows no distance, so negative values become 0.
//!
//! Does not see whether the classes of the domains match: constant features have distance 0 and are useless.
//! A plane may miss a curved boundary. Needs many more images than features: a thousand per domain give ε to
//! ±0.02.

use kiln_core::random::Key;
use kiln_core::{Error, Result};

use crate::Features;
use crate::svm::LinearSvm;

/// The distance and the error it comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ADistance {
    /// 2 (1 − 2ε), 0 to 2.
    pub distance: f64,
    /// ε: the part of the unseen pictures given to the wrong domain.
    pub error: f64,
    /// How many unseen pictures, of both domains together.
    pub n: usize,
}

/// Trains on a random half of each domain and tests on the other, with as many pictures of each as the
/// smaller has. `c` is the SVM's, as in [`LinearSvm::fit`].
///
/// # Errors
/// If the widths differ, a domain has fewer than 2 pictures, or `c` is not above 0.
pub fn proxy_a_distance(source: Features<'_>, target: Features<'_>, c: f64, key: Key) -> Result<ADistance> {
    for side in [source, target] {
        if side.n() < 2 {
            return Err(Error::new(format!("{}: one picture cannot be halved; give at least 2", side.name())));
        }
    }
    let n = source.n().min(target.n());
    let part = |side: Features<'_>, domain: &str, places: std::ops::Range<usize>| -> Vec<f32> {
        let key = key.purpose(domain);
        places.flat_map(|i| side.row(key.permute(i as u64, side.n() as u64) as usize)).copied().collect()
    };
    let parts =
        |places: std::ops::Range<usize>| [part(source, "source", places.clone()), part(target, "target", places)];
    let (train, test) = (parts(0..n / 2), parts(n / 2..n));
    between(
        [Features::new(source.name(), &train[0], source.d())?, Features::new(target.name(), &train[1], target.d())?],
        [Features::new(source.name(), &test[0], source.d())?, Features::new(target.name(), &test[1], target.d())?],
        c,
    )
}

/// The same with given halves, each the source's and the target's pictures.
///
/// # Errors
/// If the widths differ or `c` is not above 0.
pub fn between(train: [Features<'_>; 2], test: [Features<'_>; 2], c: f64) -> Result<ADistance> {
    let joined = |[source, target]: [Features<'_>; 2]| -> Result<(Vec<f32>, Vec<usize>)> {
        source.same_width(&target)?;
        let values = source.rows().chain(target.rows()).flatten().copied().collect();
        Ok((values, [vec![0; source.n()], vec![1; target.n()]].concat()))
    };
    let ((seen, seen_domains), (unseen, domains)) = (joined(train)?, joined(test)?);
    let svm = LinearSvm::fit(Features::new("both domains", &seen, train[0].d())?, &seen_domains, 2, c, 1e-6)?;
    let said = svm.predict(Features::new("both domains", &unseen, test[0].d())?)?;
    let wrong = said.iter().zip(&domains).filter(|(a, b)| a != b).count();
    let error = wrong as f64 / domains.len() as f64;
    Ok(ADistance { distance: (2.0 * (1.0 - 2.0 * error)).max(0.0), error, n: domains.len() })
}
