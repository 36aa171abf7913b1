//! The systems of Kiln, one file per paper, and the registry that lists them.

pub mod adaptation;
pub mod adversarial;
pub mod autoencoder;
pub mod classifier;
pub mod diffusion;
pub mod exemplar;
mod imported;
pub mod kmeans;
mod one_pass;
pub mod perceptual;
pub mod segmenter;
pub mod style;
#[cfg(test)]
mod testing;
pub mod text;
pub mod translation;

use kiln_core::{Error, Result};
use kiln_train::recipe::nearest;
use kiln_train::{AnySystem, System, entry};

/// What is done with every system, as a type.
pub trait Visitor {
    /// Does it with `S`.
    fn visit<S: System>(&mut self);
}

/// Shows every system to `visitor`. A new system is a line here, its file, and a recipe.
pub fn visit_systems(visitor: &mut impl Visitor) {
    visitor.visit::<classifier::Classifier>();
    visitor.visit::<autoencoder::ae::Ae>();
    visitor.visit::<autoencoder::probe::Probe>();
    visitor.visit::<autoencoder::aae::Aae>();
    visitor.visit::<autoencoder::ssvae::Ssvae>();
    visitor.visit::<autoencoder::vae::Vae>();
    visitor.visit::<autoencoder::cvae::Cvae>();
    visitor.visit::<autoencoder::iwae::Iwae>();
    visitor.visit::<autoencoder::dvae::Dvae>();
    visitor.visit::<autoencoder::betavae::BetaVae>();
    visitor.visit::<autoencoder::betatcvae::BetaTcVae>();
    visitor.visit::<autoencoder::dcign::Dcign>();
    visitor.visit::<autoencoder::pixelcnn::PixelCnnSystem>();
    visitor.visit::<autoencoder::pixelrnn::PixelRnnSystem>();
    visitor.visit::<adversarial::gan::Gan>();
    visitor.visit::<adversarial::dcgan::Dcgan>();
    visitor.visit::<adversarial::cgan::Cgan>();
    visitor.visit::<adversarial::infogan::InfoGan>();
    visitor.visit::<adversarial::ebgan::EbGan>();
    visitor.visit::<adversarial::progan::ProGan>();
    visitor.visit::<adversarial::stylegan::StyleGan>();
    visitor.visit::<adversarial::stylegan2::StyleGan2>();
    visitor.visit::<adversarial::acgan::Acgan>();
    visitor.visit::<adversarial::msgan::Msgan>();
    visitor.visit::<adversarial::sagan::Sagan>();
    visitor.visit::<adversarial::biggan::BigGan>();
    visitor.visit::<diffusion::ddpm::Ddpm>();
    visitor.visit::<diffusion::diffusers::Diffusers>();
    visitor.visit::<diffusion::noisy_classifier::NoisyClassifier>();
    visitor.visit::<diffusion::first_stage::FirstStage>();
    visitor.visit::<diffusion::ldm::Ldm>();
    visitor.visit::<diffusion::palette::Palette>();
    visitor.visit::<segmenter::Segmenter>();
    visitor.visit::<exemplar::Exemplar>();
    visitor.visit::<kmeans::KMeans>();
    visitor.visit::<translation::pix2pix::Pix2Pix>();
    visitor.visit::<translation::bicyclegan::BicycleGan>();
    visitor.visit::<translation::spade::Spade>();
    visitor.visit::<translation::cyclegan::CycleGan>();
    visitor.visit::<translation::discogan::DiscoGan>();
    visitor.visit::<translation::dualgan::DualGan>();
    visitor.visit::<translation::unit::Unit>();
    visitor.visit::<translation::munit::Munit>();
    visitor.visit::<translation::drit::Drit>();
    visitor.visit::<style::adain::AdaIn>();
    visitor.visit::<style::texnet::TexNet>();
    visitor.visit::<style::styleswap::StyleSwap>();
    visitor.visit::<adaptation::dann::Dann>();
    visitor.visit::<adaptation::ddc::Ddc>();
    visitor.visit::<adaptation::adda::Adda>();
    visitor.visit::<adaptation::dsn::Dsn>();
    visitor.visit::<adaptation::pixelda::PixelDa>();
    visitor.visit::<adaptation::crosscity::CrossCity>();
    visitor.visit::<adaptation::shallow::system::Shallow>();
    visitor.visit::<text::clip::Clip>();
    visitor.visit::<text::gan_int_cls::GanIntCls>();
    visitor.visit::<text::stackgan::StackGan>();
}

/// All systems.
pub fn registry() -> Vec<Box<dyn AnySystem>> {
    struct Entries(Vec<Box<dyn AnySystem>>);
    impl Visitor for Entries {
        fn visit<S: System>(&mut self) {
            self.0.push(entry::<S>());
        }
    }
    let mut entries = Entries(Vec::new());
    visit_systems(&mut entries);
    entries.0
}

/// The system named `id`.
///
/// # Errors
/// A usage error that names the nearest one.
pub fn find(id: &str) -> Result<Box<dyn AnySystem>> {
    let mut all = registry();
    if let Some(at) = all.iter().position(|s| s.id() == id) {
        return Ok(all.swap_remove(at));
    }
    let hint = match nearest(id, all.iter().map(|s| s.id())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`kiln systems` lists them".to_string(),
    };
    Err(Error::usage(format!("unknown system `{id}`; {hint}")))
}
