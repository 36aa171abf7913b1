//! Gong, Shi, Sha & Grauman, *Geodesic Flow Kernel for Unsupervised Domain Adaptation*, 2012.
//!
//! Principal subspaces of source and target are points of a Grassmannian. The kernel ⟨x, y⟩ = xᵀ G y takes the
//! products in all subspaces Φ(t) on the geodesic from one to the other together: G = ∫₀¹ Φ(t) Φ(t)ᵀ dt. With the
//! principal angles θ, P_sᵀ P_t = U₁ cos θ Vᵀ and R_sᵀ P_t = −U₂ sin θ Vᵀ (R_s spans what P_s does not),
//!
//! G = ½ [P_s U₁, R_s U₂] [[1 + sin 2θ/2θ, (cos 2θ − 1)/2θ], [(cos 2θ − 1)/2θ, 1 − sin 2θ/2θ]] [P_s U₁, R_s U₂]ᵀ.
//!
//! Points are x L with L Lᵀ = G, so that their products are the kernel's: 2·`dimension` numbers.

use faer::Mat;
use kiln_core::{Error, Result};

use super::algebra::principal;
use super::domains::Domains;
use super::map::{Basis, Map, Side};

/// An angle of which the sine is rounding alone.
const NO_ANGLE: f64 = 1e-7;

/// The kernel's root, for subspaces of `k` dimensions.
///
/// # Errors
/// If a domain spans fewer.
pub fn geodesic_flow_kernel(domains: &Domains, k: usize) -> Result<Map> {
    let source = principal(domains.source.as_ref(), k, "source")?.basis;
    let target = principal(domains.target.as_ref(), k, "target")?.basis;
    let products = source.transpose() * &target;
    let svd = products.svd().map_err(|_| Error::new("the principal angles of the domains do not converge"))?;
    let cosines = svd.S().column_vector();
    // P_s U₁, and P_t V = P_s U₁ cos θ − R_s U₂ sin θ.
    let (from, to) = (&source * svd.U(), &target * svd.V());
    let side = Side::linear(Basis::Features, root(&from, &to, &(0..k).map(|i| cosines[i]).collect::<Vec<_>>()));
    Ok(Map::of_features(side.clone(), side))
}

/// L, a pair of columns a principal angle.
fn root(from: &Mat<f64>, to: &Mat<f64>, cosines: &[f64]) -> Mat<f64> {
    let d = from.nrows();
    let mut root = Mat::zeros(d, 2 * cosines.len());
    for (i, cosine) in cosines.iter().enumerate() {
        let cosine = cosine.clamp(0.0, 1.0);
        let away: Vec<f64> = (0..d).map(|row| from[(row, i)] * cosine - to[(row, i)]).collect();
        let sine = away.iter().map(|v| v * v).sum::<f64>().sqrt();
        let theta = sine.atan2(cosine);
        let [[a, b], [_, c]] = flow(theta);
        // The root of [[a, b], [b, c]]: (itself + √det·I) / √(trace + 2√det).
        let det = (a * c - b * b).max(0.0).sqrt();
        let scale = (a + c + 2.0 * det).sqrt();
        for row in 0..d {
            let (p, r) = (from[(row, i)], if sine > NO_ANGLE { away[row] / sine } else { 0.0 });
            root[(row, 2 * i)] = (p * (a + det) + r * b) / scale;
            root[(row, 2 * i + 1)] = (p * b + r * (c + det)) / scale;
        }
    }
    root
}

/// ½ [[1 + sin 2θ/2θ, (cos 2θ − 1)/2θ], [(cos 2θ − 1)/2θ, 1 − sin 2θ/2θ]]
fn flow(theta: f64) -> [[f64; 2]; 2] {
    let twice = 2.0 * theta;
    let (sine, cosine) = if theta > NO_ANGLE { (twice.sin() / twice, (twice.cos() - 1.0) / twice) } else { (1.0, 0.0) };
    [[0.5 * (1.0 + sine), 0.5 * cosine], [0.5 * cosine, 0.5 * (1.0 - sine)]]
}
