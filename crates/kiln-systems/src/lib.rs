//! The systems of Kiln, one file per paper, and the registry that lists them.

pub mod adaptation;
pub mod adversarial;
pub mod autoencoder;
pub mod classifier;
pub mod diffusion;
pub mod exemplar;
pub mod kmeans;
mod one_pass;
pub mod segmenter;
#[cfg(test)]
mod testing;
pub mod translation;

use kiln_core::{Error, Result};
use kiln_train::recipe::nearest;
use kiln_train::{AnySystem, entry};

/// All systems. A new one is a line here, its file, and a recipe.
pub fn registry() -> Vec<Box<dyn AnySystem>> {
    vec![
        entry::<classifier::Classifier>(),
        entry::<autoencoder::ae::Ae>(),
        entry::<autoencoder::probe::Probe>(),
        entry::<autoencoder::aae::Aae>(),
        entry::<autoencoder::ssvae::Ssvae>(),
        entry::<autoencoder::vae::Vae>(),
        entry::<autoencoder::cvae::Cvae>(),
        entry::<autoencoder::iwae::Iwae>(),
        entry::<autoencoder::dvae::Dvae>(),
        entry::<autoencoder::betavae::BetaVae>(),
        entry::<autoencoder::betatcvae::BetaTcVae>(),
        entry::<autoencoder::dcign::Dcign>(),
        entry::<autoencoder::pixelcnn::PixelCnnSystem>(),
        entry::<autoencoder::pixelrnn::PixelRnnSystem>(),
        entry::<adversarial::gan::Gan>(),
        entry::<adversarial::dcgan::Dcgan>(),
        entry::<adversarial::cgan::Cgan>(),
        entry::<adversarial::infogan::InfoGan>(),
        entry::<adversarial::ebgan::EbGan>(),
        entry::<adversarial::progan::ProGan>(),
        entry::<adversarial::stylegan::StyleGan>(),
        entry::<adversarial::stylegan2::StyleGan2>(),
        entry::<adversarial::acgan::Acgan>(),
        entry::<adversarial::msgan::Msgan>(),
        entry::<adversarial::sagan::Sagan>(),
        entry::<adversarial::biggan::BigGan>(),
        entry::<diffusion::ddpm::Ddpm>(),
        entry::<diffusion::diffusers::Diffusers>(),
        entry::<diffusion::noisy_classifier::NoisyClassifier>(),
        entry::<segmenter::Segmenter>(),
        entry::<exemplar::Exemplar>(),
        entry::<kmeans::KMeans>(),
        entry::<translation::cyclegan::CycleGan>(),
        entry::<adaptation::dann::Dann>(),
    ]
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
