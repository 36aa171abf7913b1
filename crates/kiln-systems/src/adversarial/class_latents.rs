//! What a class-conditional generator starts from: z and a class. Its draws, and walks through both.

use burn::tensor::{Int, Tensor};
use kiln_core::{Error, Result};
use kiln_nn::tensor::from_values;
use kiln_train::request::check_class;
use kiln_train::{Batch, Input, Request};

use super::latent::Distribution;

/// Labels as rows of the unit matrix.
///
/// # Shapes
/// `[n]` → `[n, classes]`
pub fn one_hot(labels: &[u32], classes: usize, device: &burn::tensor::Device) -> Tensor<2> {
    let row = |&label: &u32| (0..classes).map(move |c| if c == label as usize { 1.0 } else { 0.0 });
    from_values(labels.iter().flat_map(row).collect(), [labels.len(), classes], device)
}

/// z and a class y. Latents are z and the one-hot y, side by side: a walk changes the class as well, and sums of latents add and
/// subtract classes. Without classes every picture is of one and the same, which latents do not say.
#[derive(Clone, Debug)]
pub struct ClassLatents {
    /// The system, for messages.
    pub system: &'static str,
    /// Length of z.
    pub size: usize,
    /// What z is drawn from.
    pub distribution: Distribution,
    /// Names of the classes, if there are any.
    pub classes: Vec<String>,
}

impl ClassLatents {
    /// Length of y.
    pub fn count(&self) -> usize {
        self.classes.len().max(1)
    }

    /// What a request may say.
    pub fn takes(&self) -> Vec<Input> {
        if self.classes.is_empty() { vec![Input::Noise] } else { vec![Input::Class, Input::Noise] }
    }

    /// The classes of a batch's pictures, which its generated ones get too, so that D cannot recognise them by how often a
    /// class comes.
    ///
    /// # Errors
    /// If the system knows classes and the batch has no labels.
    pub fn of_batch(&self, batch: &Batch) -> Result<Tensor<2>> {
        match &batch.domains[0].host_labels {
            _ if self.classes.is_empty() => Ok(Tensor::ones([batch.len(), 1], batch.device())),
            Some(labels) => Ok(one_hot(labels, self.count(), batch.device())),
            None => Err(Error::usage(format!("{} needs labels, and the data set has none", self.system))),
        }
    }

    /// The same as indices; `None` without classes.
    pub fn labels(&self, batch: &Batch) -> Option<Tensor<1, Int>> {
        batch.domains[0].labels.clone().filter(|_| !self.classes.is_empty())
    }

    /// The classes of a request: the one asked for, else a uniform draw for each sample.
    ///
    /// # Errors
    /// A usage error if there is no such class.
    pub fn requested(&self, request: &Request) -> Result<Tensor<2>> {
        check_class(request.condition.class, &self.classes)?;
        Ok(one_hot(&request.classes(self.count()), self.count(), &request.device))
    }

    /// Latents of z and y.
    ///
    /// # Shapes
    /// `[n, size]`, `[n, classes]` → `[n, size + classes]`
    pub fn join(&self, z: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
        if self.classes.is_empty() { z } else { Tensor::cat(vec![z, y], 1) }
    }

    /// z and y of latents.
    ///
    /// # Errors
    /// A usage error if they are of another length.
    pub fn split(&self, latents: Tensor<2>) -> Result<[Tensor<2>; 2]> {
        let ([n, got], classes) = (latents.dims(), self.classes.len());
        if got != self.size + classes {
            let what = if classes == 0 { "" } else { " (z and the class)" };
            let expected = self.size + classes;
            return Err(Error::usage(format!("latents of {got} numbers; this run's have {expected}{what}")));
        }
        let z = latents.clone().narrow(1, 0, self.size);
        let y =
            if classes == 0 { Tensor::ones([n, 1], &latents.device()) } else { latents.narrow(1, self.size, classes) };
        Ok([z, y])
    }

    /// The point a fraction `t` of the way from `a` to `b`: z as [`Distribution::between`] has it, y on the straight line.
    pub fn between(&self, a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
        let part = |x: &Tensor<2>, from, len| x.clone().narrow(1, from, len);
        let z = self.distribution.between(part(&a, 0, self.size), part(&b, 0, self.size), t);
        let classes = self.classes.len();
        if classes == 0 {
            return z;
        }
        self.join(z, part(&a, self.size, classes) * (1.0 - t) + part(&b, self.size, classes) * t)
    }
}
