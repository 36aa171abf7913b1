//! The methods by name, with their settings.

use kiln_core::{Result, refuse_if};
use serde::{Deserialize, Serialize};

use super::domains::Domains;
use super::map::{Basis, Kernel, Map, Side};
use super::{gfk, jda, jgsa, otgl, sa, sca, sda, tca, tjm};

/// How the domains are brought together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Not at all: the baseline.
    None,
    /// Subspace alignment.
    Sa,
    /// Subspace distribution alignment.
    Sda,
    /// The geodesic flow kernel.
    Gfk,
    /// Transfer component analysis.
    Tca,
    /// Joint distribution adaptation.
    Jda,
    /// Transfer joint matching.
    Tjm,
    /// Scatter component analysis.
    Sca,
    /// Optimal transport with the group lasso.
    Otgl,
    /// Joint geometrical and statistical alignment.
    Jgsa,
}

/// What components are found of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelName {
    /// The features themselves.
    Primal,
    /// xᵀy
    Linear,
    /// exp(−γ ‖x − y‖²)
    Rbf,
}

/// A method and its settings, with the papers' names; one that the method does not have has no effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodConfig {
    /// `none`, `sa`, `sda`, `gfk`, `tca`, `jda`, `tjm`, `sca`, `otgl` or `jgsa`.
    pub method: Method,
    /// `primal`, `linear` or `rbf`, of features of length 1: for TCA, JDA, JGSA, and all but `primal` for TJM and SCA.
    pub kernel: KernelName,
    /// γ of the kernel `rbf`.
    pub gamma: f64,
    /// Dimensions of the subspace or components; GFK's points have twice as many.
    pub dimension: usize,
    /// λ of TCA (its paper's μ), JDA and TJM: the weight of the components' norm.
    pub lambda: f64,
    /// α of JGSA: how near the projections of the domains are.
    pub alpha: f64,
    /// β of JGSA and SCA: the source's classes.
    pub beta: f64,
    /// μ of JGSA: the target's variance.
    pub mu: f64,
    /// δ of SCA: the scatter between the domains.
    pub delta: f64,
    /// ε of OTGL: entropy, in units of the largest cost.
    pub entropy: f64,
    /// η of OTGL: the group lasso.
    pub group: f64,
    /// Whether the components of TCA, JDA and TJM have unit variance, as the papers constrain them, and not unit
    /// length.
    pub whiten: bool,
    /// T of JDA, TJM, JGSA and OTGL: how often guesses, weights or the plan are renewed.
    pub iterations: usize,
    /// Whether the target may lack classes of the source, of which means are then not compared: for JDA and JGSA.
    pub partial: bool,
}

impl Default for MethodConfig {
    fn default() -> Self {
        Self {
            method: Method::Jgsa,
            kernel: KernelName::Primal,
            gamma: 1.0,
            dimension: 30,
            lambda: 1.0,
            alpha: 1.0,
            beta: 0.1,
            mu: 1.0,
            delta: 1.0,
            entropy: 0.02,
            group: 0.1,
            whiten: false,
            iterations: 10,
            partial: false,
        }
    }
}

impl MethodConfig {
    /// Checks what no data can make right.
    ///
    /// # Errors
    /// A usage error that names the setting.
    pub fn check(&self) -> Result<()> {
        refuse_if!(self.dimension == 0, "model.dimension must be at least 1");
        refuse_if!(self.iterations == 0, "model.iterations must be at least 1");
        for (name, value) in [
            ("gamma", self.gamma),
            ("lambda", self.lambda),
            ("alpha", self.alpha),
            ("mu", self.mu),
            ("entropy", self.entropy),
        ] {
            refuse_if!(!(value > 0.0 && value.is_finite()), "model.{name} must be above 0, not {value}");
        }
        for (name, value) in [("beta", self.beta), ("delta", self.delta), ("group", self.group)] {
            refuse_if!(!(value >= 0.0 && value.is_finite()), "model.{name} must not be below 0, not {value}");
        }
        refuse_if!(
            matches!(self.method, Method::Tjm | Method::Sca) && self.kernel == KernelName::Primal,
            "model.kernel = \"primal\": TJM and SCA find components of pictures, not of features; set linear or rbf"
        );
        refuse_if!(
            self.method == Method::Sca && self.beta > 1.0,
            "model.beta = {}: a share of the scatter for SCA, at most 1",
            self.beta
        );
        Ok(())
    }

    /// The kernel, if there is one.
    pub fn kernel(&self) -> Option<Kernel> {
        match self.kernel {
            KernelName::Primal => None,
            KernelName::Linear => Some(Kernel::Linear),
            KernelName::Rbf => Some(Kernel::Rbf(self.gamma)),
        }
    }

    /// What the weights of source and target are applied to.
    pub fn bases(&self) -> (Basis, Basis) {
        let basis = match (self.method, self.kernel()) {
            (Method::Tca | Method::Jda | Method::Tjm | Method::Sca | Method::Jgsa, Some(kernel)) => {
                Basis::Kernel(kernel)
            }
            (Method::Otgl, _) => return (Basis::Nearest, Basis::Features),
            _ => Basis::Features,
        };
        (basis, basis)
    }

    /// Numbers of a point, of `features` numbers.
    pub fn width(&self, features: usize) -> usize {
        match self.method {
            Method::None | Method::Otgl => features,
            Method::Gfk => 2 * self.dimension,
            _ => self.dimension,
        }
    }

    /// Learns the map of both domains.
    ///
    /// # Errors
    /// If the domains do not determine it.
    pub fn learn(&self, domains: &Domains) -> Result<Map> {
        let kernel = self.kernel();
        let of_pictures = kernel.unwrap_or(Kernel::Linear);
        let Self { dimension, lambda, alpha, beta, mu, whiten, iterations, partial, .. } = *self;
        match self.method {
            Method::None => Ok(Map::of_features(Side::same(), Side::same())),
            Method::Sa => sa::subspace_alignment(domains, dimension),
            Method::Sda => sda::subspace_distribution_alignment(domains, dimension),
            Method::Gfk => gfk::geodesic_flow_kernel(domains, dimension),
            Method::Tca => tca::transfer_components(domains, kernel, dimension, lambda, whiten),
            Method::Jda => {
                let settings = jda::Settings { dimension, lambda, iterations, whiten, partial };
                jda::joint_distribution_adaptation(domains, kernel, &settings)
            }
            Method::Tjm => {
                let settings = tjm::Settings { dimension, lambda, iterations, whiten };
                tjm::transfer_joint_matching(domains, of_pictures, &settings)
            }
            Method::Sca => {
                let settings = sca::Settings { dimension, beta, delta: self.delta };
                sca::scatter_components(domains, of_pictures, &settings)
            }
            Method::Otgl => {
                let settings = otgl::Settings { entropy: self.entropy, group: self.group, iterations };
                otgl::optimal_transport(domains, &settings)
            }
            Method::Jgsa => {
                let settings = jgsa::Settings { dimension, alpha, beta, mu, iterations, partial };
                jgsa::geometrical_and_statistical(domains, kernel, &settings)
            }
        }
    }
}
