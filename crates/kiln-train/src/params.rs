//! Access to a network's parameters by path (`generator.layers.0.weight`).

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use kiln_core::{Error, Result};
use kiln_nn::tensor::{from_values, to_values};

/// Flattened tensors by path, as optimisers, EMA and checkpoints exchange them.
pub type Flat = BTreeMap<String, Tensor<1>>;

/// A tensor in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Size of each dimension.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub values: Vec<f32>,
}

/// Host tensors by path, in a fixed order, so that equal states give equal files.
pub type State = BTreeMap<String, HostTensor>;

/// Calls `each` with path, trainability, shape and flattened value of every float parameter and
/// buffer.
fn visit<M: Module>(module: &M, each: impl FnMut(String, bool, Vec<usize>, Tensor<1>)) {
    struct Visitor<F> {
        path: Vec<String>,
        each: F,
    }
    impl<F: FnMut(String, bool, Vec<usize>, Tensor<1>)> ModuleVisitor for Visitor<F> {
        fn enter_module(&mut self, name: &str, _kind: &str) {
            self.path.push(name.to_string());
        }
        fn exit_module(&mut self, _name: &str, _kind: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            let (shape, trainable) = (value.dims().to_vec(), value.is_require_grad());
            let len: usize = shape.iter().product();
            (self.each)(self.path.join("."), trainable, shape, value.inner().reshape([len]));
        }
    }
    module.visit(&mut Visitor { path: Vec::new(), each });
}

/// Replaces each parameter by the result of `each` for (path, flattened value). Unless the module was cloned,
/// the value has no other owner, so it may be changed in place.
pub fn map_flat<M: Module>(module: M, each: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> M {
    struct Visitor<F> {
        path: Vec<String>,
        each: F,
    }
    impl<F: FnMut(&str, Tensor<1>) -> Tensor<1>> ModuleMapper for Visitor<F> {
        fn enter_module(&mut self, name: &str, _kind: &str) {
            self.path.push(name.to_string());
        }
        fn exit_module(&mut self, _name: &str, _kind: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let path = self.path.join(".");
            let (id, value, mapper) = param.consume();
            let (shape, tracked) = (value.dims(), value.is_require_grad());
            let strategy = value.gradient_checkpointing_strategy();
            let new = (self.each)(&path, value.inner().reshape([shape.iter().product::<usize>()])).reshape(shape);
            let new = match strategy {
                Some(strategy) => new.autodiff().with_gradient_checkpointing_strategy(strategy),
                None => new,
            };
            let new = if tracked { new.require_grad() } else { new };
            Param::from_mapped_value(id, new, mapper)
        }
    }
    module.map(&mut Visitor { path: Vec::new(), each })
}

/// Whether a path is one of these or below one.
pub fn is_below(path: &str, prefixes: &[&str]) -> bool {
    let below = |prefix: &&str| path.strip_prefix(*prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    prefixes.iter().any(below)
}

/// Enables gradients for the parameters at or below these paths (`generator`, `generator.mapping`), and disables the others.
pub fn set_trainable<M: Module>(module: M, prefixes: &[&str]) -> M {
    struct Visitor<'a> {
        path: Vec<String>,
        prefixes: &'a [&'a str],
    }
    impl ModuleMapper for Visitor<'_> {
        fn enter_module(&mut self, name: &str, _kind: &str) {
            self.path.push(name.to_string());
        }
        fn exit_module(&mut self, _name: &str, _kind: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let trains = is_below(&self.path.join("."), self.prefixes);
            if param.val().is_require_grad() == trains { param } else { param.set_require_grad(trains) }
        }
    }
    module.map(&mut Visitor { path: Vec::new(), prefixes })
}

/// Every parameter and buffer by path.
pub fn flat<M: Module>(module: &M) -> Flat {
    let mut out = Flat::new();
    visit(module, |path, _, _, value| {
        out.insert(path, value);
    });
    out
}

/// Number of values in all parameters and buffers.
pub fn count<M: Module>(module: &M) -> usize {
    let mut total = 0;
    visit(module, |_, _, shape, _| total += shape.iter().product::<usize>());
    total
}

/// The state as host tensors, for a checkpoint.
pub fn state<M: Module>(module: &M) -> State {
    let mut out = State::new();
    visit(module, |path, _, shape, value| {
        out.insert(path, HostTensor { shape, values: to_values(value) });
    });
    out
}

/// Loads a saved state into a network of the same structure.
///
/// # Errors
/// Names the tensors that are missing, left over or of another shape.
pub fn load<M: Module>(module: M, state: &State, place: &str) -> Result<M> {
    let mut left: BTreeSet<&str> = state.keys().map(String::as_str).collect();
    let mut wrong = Vec::new();
    visit(&module, |path, _, shape, _| match state.get(&path) {
        None => wrong.push(format!("`{path}` is missing")),
        Some(saved) => {
            left.remove(path.as_str());
            if saved.shape != shape {
                wrong.push(format!("`{path}` has shape {:?} where these settings need {shape:?}", saved.shape));
            }
        }
    });
    wrong.extend(left.into_iter().map(|path| format!("`{path}` has no place under these settings")));
    if !wrong.is_empty() {
        // A line has room for a few.
        let more = wrong.len().saturating_sub(3);
        wrong.truncate(3);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        return Err(Error::new(format!("{place}: tensor {}{more}", wrong.join("; "))));
    }
    Ok(map_flat(module, |path, old| match state.get(path) {
        Some(saved) => from_values(saved.values.clone(), [saved.values.len()], &old.device()),
        None => old,
    }))
}

/// Loads parts of another module's saved state into a module, each from its path there (all of it where that is
/// empty) to its path here.
///
/// # Errors
/// Names the first tensor that the state lacks or has in another size.
pub fn adopt<M: Module>(module: M, state: &State, networks: &[(&str, &str)], place: &str) -> Result<M> {
    let theirs = |path: &str| {
        let below = |here: &str| path.strip_prefix(here)?.strip_prefix('.');
        networks.iter().find_map(|(there, here)| {
            let rest = below(here)?;
            Some(if there.is_empty() { rest.to_string() } else { format!("{there}.{rest}") })
        })
    };
    let mut wrong = None;
    let mut left: Vec<&str> = networks.iter().map(|(_, here)| *here).collect();
    visit(&module, |path, _, shape, _| {
        left.retain(|here| !path.starts_with(&format!("{here}.")));
        let Some(name) = theirs(&path).filter(|_| wrong.is_none()) else { return };
        wrong = match state.get(&name) {
            None => Some(format!("it has no tensor `{name}` for `{path}`")),
            Some(saved) if saved.shape != shape => {
                Some(format!("its tensor `{name}` has shape {:?}, and `{path}` needs {shape:?}", saved.shape))
            }
            Some(_) => None,
        };
    });
    if let Some(here) = left.first() {
        return Err(Error::new(format!("{place}: there is no network `{here}` here to start from it")));
    }
    if let Some(wrong) = wrong {
        return Err(Error::usage(format!("{place}: {wrong}; it needs the same settings of that network here")));
    }
    Ok(map_flat(module, |path, old| match theirs(path).and_then(|name| state.get(&name)) {
        Some(saved) => from_values(saved.values.clone(), [saved.values.len()], &old.device()),
        None => old,
    }))
}

/// The gradients of the trainable parameters, by path.
pub fn take_gradients<M: Module>(module: &M, gradients: &mut Gradients) -> Flat {
    struct Visitor<'a> {
        path: Vec<String>,
        gradients: &'a mut Gradients,
        out: Flat,
    }
    impl ModuleVisitor for Visitor<'_> {
        fn enter_module(&mut self, name: &str, _kind: &str) {
            self.path.push(name.to_string());
        }
        fn exit_module(&mut self, _name: &str, _kind: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if let Some(gradient) = value.grad_remove(self.gradients) {
                let len: usize = value.dims().iter().product();
                self.out.insert(self.path.join("."), gradient.reshape([len]));
            }
        }
    }
    let mut visitor = Visitor { path: Vec::new(), gradients, out: Flat::new() };
    module.visit(&mut visitor);
    visitor.out
}
