//! Optimisation over tensors instead of networks: style transfer, inversion of a generator, projection, textual
//! inversion. Any optimiser of training ([`OptimizerConfig`]), or L-BFGS as `torch.optim.LBFGS` has it.

use std::collections::VecDeque;
use std::fmt;

use burn::tensor::Tensor;
use kiln_core::{Error, Result};

use crate::optim::{Optimizer, OptimizerConfig, clip_scale, sum_of_squares};

/// How [`minimise`] descends.
#[derive(Clone, Debug, PartialEq)]
pub enum Descent {
    /// By an optimiser of training. Its schedule runs over the steps, and its warm-up is counted in steps.
    Optimizer(OptimizerConfig),
    /// By an estimate of the Hessian from the last gradients. The objective must be the same function at every step.
    Lbfgs(Lbfgs),
}

/// Settings of L-BFGS (Nocedal 1980; Liu and Nocedal 1989). Names and defaults are PyTorch's, but for the line search,
/// which it leaves out by default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lbfgs {
    /// The length of a step, or where its line search begins.
    pub learning_rate: f64,
    /// How many of the last steps the estimate is made of.
    pub history: usize,
    /// Whether the length of a step is searched for until it meets the strong Wolfe conditions (Nocedal and Wright,
    /// algorithms 3.5 and 3.6).
    pub line_search: bool,
    /// It has converged when no element of the gradient is larger,
    pub tolerance_grad: f64,
    /// or a step changes no variable, or the objective, by more.
    pub tolerance_change: f64,
}

impl Default for Lbfgs {
    fn default() -> Self {
        Self { learning_rate: 1.0, history: 100, line_search: true, tolerance_grad: 1e-7, tolerance_change: 1e-9 }
    }
}

/// Where [`minimise`] arrived.
#[derive(Clone, Debug)]
pub struct Minimum<const D: usize> {
    /// The variables, not tracked.
    pub variables: Vec<Tensor<D>>,
    /// The objective there.
    pub value: f64,
    /// Steps taken.
    pub steps: usize,
    /// Whether L-BFGS stopped before the last step because there was no way to go.
    pub converged: bool,
}

/// Why [`minimise`] gave up, and how far it had come. Turns into its error where `?` wants one.
pub struct Interrupted<const D: usize> {
    /// What happened.
    pub error: Error,
    /// The last point at which the objective was finite; `None` if it never was.
    pub last: Option<Minimum<D>>,
}

impl<const D: usize> fmt::Debug for Interrupted<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)
    }
}

impl<const D: usize> From<Interrupted<D>> for Error {
    fn from(interrupted: Interrupted<D>) -> Self {
        interrupted.error
    }
}

/// Minimises `objective`, one number, over `variables` in at most `steps` steps. `report` is called before each step
/// with its number, the objective, and the variables it is of.
///
/// # Errors
/// If the objective fails, or it or its gradient is not finite or does not depend on the variables; the last finite
/// point comes along.
pub fn minimise<const D: usize>(
    variables: Vec<Tensor<D>>,
    objective: impl FnMut(&[Tensor<D>]) -> Result<Tensor<1>>,
    descent: &Descent,
    steps: usize,
    report: impl FnMut(usize, f64, &[Tensor<D>]),
) -> std::result::Result<Minimum<D>, Interrupted<D>> {
    if variables.is_empty() {
        return Err(Interrupted { error: Error::new("there are no variables to minimise over"), last: None });
    }
    let shapes = variables.iter().map(Tensor::dims).collect();
    let start =
        Tensor::cat(variables.into_iter().map(|v| flat(if v.is_autodiff() { v.inner() } else { v })).collect(), 0);
    let mut search = Search { shapes, objective, report, steps: 0, last: None };
    let result = match descent {
        Descent::Optimizer(config) => search.by_optimizer(start, config, steps),
        Descent::Lbfgs(settings) => search.by_lbfgs(start, settings, steps),
    };
    let Search { shapes, steps, last, .. } = search;
    let minimum =
        |at: Point, converged| Minimum { variables: parts(&at.x, &shapes), value: at.value, steps, converged };
    match result {
        Ok((point, converged)) => Ok(minimum(point, converged)),
        Err(error) => Err(Interrupted { error, last: last.map(|point| minimum(point, false)) }),
    }
}

/// The objective and its gradient at a point.
#[derive(Clone)]
struct Point {
    x: Tensor<1>,
    value: f64,
    gradient: Tensor<1>,
}

struct Search<const D: usize, F, R> {
    shapes: Vec<[usize; D]>,
    objective: F,
    report: R,
    /// Steps that arrived.
    steps: usize,
    /// The last point arrived at, whose objective is finite.
    last: Option<Point>,
}

impl<const D: usize, F, R> Search<D, F, R>
where
    F: FnMut(&[Tensor<D>]) -> Result<Tensor<1>>,
    R: FnMut(usize, f64, &[Tensor<D>]),
{
    fn at(&mut self, x: Tensor<1>) -> Result<Point> {
        let variables: Vec<Tensor<D>> =
            parts(&x, &self.shapes).into_iter().map(|v| v.autodiff().require_grad()).collect();
        let objective = (self.objective)(&variables)?;
        let [count] = objective.dims();
        if count != 1 {
            return Err(Error::new(format!("an objective is one number, and this one has {count}")));
        }
        if !objective.is_tracked() {
            return Err(Error::new("the objective does not depend on the variables"));
        }
        let value = f64::from(objective.clone().into_scalar::<f32>());
        let mut gradients = objective.backward();
        let gradient = |v: Tensor<D>| match v.grad_remove(&mut gradients) {
            Some(gradient) => flat(gradient),
            None => flat(v.inner()).zeros_like(),
        };
        let gradient = Tensor::cat(variables.into_iter().map(gradient).collect(), 0);
        let wrong = match (value.is_finite(), norm(&gradient).is_finite()) {
            (false, _) => format!("the objective is {value}"),
            (true, false) => "the objective's gradient is not finite".into(),
            (true, true) => return Ok(Point { x, value, gradient }),
        };
        Err(Error::new(format!("{wrong} at step {}; lower the learning rate or start elsewhere", self.steps)))
    }

    /// Evaluates where to begin.
    fn start(&mut self, x: Tensor<1>) -> Result<Point> {
        let point = self.at(x)?;
        self.last = Some(point.clone());
        Ok(point)
    }

    /// Says where a step begins.
    fn begin_step(&mut self, point: &Point) {
        (self.report)(self.steps, point.value, &parts(&point.x, &self.shapes));
    }

    /// Ends the step at a point.
    fn arrive(&mut self, point: &Point) {
        self.steps += 1;
        self.last = Some(point.clone());
    }

    fn by_optimizer(&mut self, start: Tensor<1>, config: &OptimizerConfig, steps: usize) -> Result<(Point, bool)> {
        let mut optimizer = Optimizer::new(config.clone());
        let mut point = self.start(start)?;
        for step in 0..steps {
            self.begin_step(&point);
            let factor = config.schedule.factor(step as u64, steps as u64, config.warmup);
            let scale = clip_scale(norm(&point.gradient), config.clip_norm);
            point = self.at(optimizer.step_tensor(point.x, point.gradient, factor, scale))?;
            self.arrive(&point);
        }
        Ok((point, false))
    }

    fn by_lbfgs(&mut self, start: Tensor<1>, settings: &Lbfgs, steps: usize) -> Result<(Point, bool)> {
        let mut curvature = Curvature { pairs: VecDeque::new(), scale: 1.0, history: settings.history };
        let mut point = self.start(start)?;
        for step in 0..steps {
            if largest(&point.gradient) <= settings.tolerance_grad {
                return Ok((point, true));
            }
            let direction = curvature.times(&point.gradient) * -1.0;
            let slope = dot(&point.gradient, &direction);
            if slope > -settings.tolerance_change {
                return Ok((point, true));
            }
            self.begin_step(&point);
            let first = if step == 0 {
                (1.0 / f64::from(point.gradient.clone().abs().sum().into_scalar::<f32>())).min(1.0)
            } else {
                1.0
            };
            let length = first * settings.learning_rate;
            let mut evaluate = |length: f64| {
                let next = self.at(point.x.clone() + direction.clone() * length)?;
                Ok(Trial { length, slope: dot(&next.gradient, &direction), point: next })
            };
            let next = if settings.line_search {
                let far = largest(&direction);
                let from = Trial { length: 0.0, slope, point: point.clone() };
                line_search(evaluate, from, length, settings.tolerance_change / far)?
            } else {
                evaluate(length)?
            };
            let (moved, next) = (direction * next.length, next.point);
            self.arrive(&next);
            let least = largest(&moved).min((next.value - point.value).abs());
            curvature.learn(moved, next.gradient.clone() - point.gradient);
            point = next;
            if least <= settings.tolerance_change {
                return Ok((point, true));
            }
        }
        Ok((point, false))
    }
}

/// The inverse of the Hessian, as the last steps tell it.
struct Curvature {
    /// Steps, the changes of the gradient along them, and one over their inner product; the last one last.
    pairs: VecDeque<(Tensor<1>, Tensor<1>, f64)>,
    /// The factor that stands for everything the steps do not tell.
    scale: f64,
    history: usize,
}

impl Curvature {
    fn learn(&mut self, step: Tensor<1>, change: Tensor<1>) {
        let product = dot(&change, &step);
        // Else the estimate would not be positive definite.
        if product > 1e-10 {
            self.scale = product / dot(&change, &change);
            self.pairs.push_back((step, change, 1.0 / product));
        }
        while self.pairs.len() > self.history {
            self.pairs.pop_front();
        }
    }

    /// The two-loop recursion (Nocedal 1980).
    fn times(&self, gradient: &Tensor<1>) -> Tensor<1> {
        let mut product = gradient.clone();
        let mut shares = Vec::with_capacity(self.pairs.len());
        for (step, change, inverse) in self.pairs.iter().rev() {
            let share = dot(step, &product) * inverse;
            product = product - change.clone() * share;
            shares.push(share);
        }
        product = product * self.scale;
        for ((step, change, inverse), share) in self.pairs.iter().zip(shares.into_iter().rev()) {
            let back = dot(change, &product) * inverse;
            product = product + step.clone() * (share - back);
        }
        product
    }
}

/// A point along a direction.
#[derive(Clone)]
struct Trial {
    length: f64,
    /// The derivative along the direction.
    slope: f64,
    point: Point,
}

/// A point along a direction where the objective has fallen by a ten-thousandth of what the slope at `start` promises
/// and the slope to nine tenths of it: the strong Wolfe conditions. The best of the last interval after 25 trials or
/// when it is shorter than `shortest`. The decisions are those of `torch.optim.LBFGS`.
fn line_search(
    mut evaluate: impl FnMut(f64) -> Result<Trial>,
    start: Trial,
    length: f64,
    shortest: f64,
) -> Result<Trial> {
    const MOST: usize = 25;
    let (value, slope) = (start.point.value, start.slope);
    let high = |trial: &Trial| trial.point.value > value + 1e-4 * trial.length * slope;
    let flat_enough = |trial: &Trial| trial.slope.abs() <= -0.9 * slope;
    let mut count = 0;
    let mut previous = start.clone();
    let mut trial = evaluate(length)?;
    // Further on, until there must be such a point on the way.
    let mut ends = loop {
        if count == MOST {
            break [start, trial];
        }
        if high(&trial) || (count > 1 && trial.point.value >= previous.point.value) {
            break [previous, trial];
        }
        if flat_enough(&trial) {
            return Ok(trial);
        }
        if trial.slope >= 0.0 {
            break [previous, trial];
        }
        let bounds = [trial.length + 0.01 * (trial.length - previous.length), 10.0 * trial.length];
        let next = evaluate(cubic_minimum(&previous, &trial, bounds))?;
        previous = std::mem::replace(&mut trial, next);
        count += 1;
    };
    // And closer in, until it is found.
    let lower = |ends: &[Trial; 2]| usize::from(ends[0].point.value > ends[1].point.value);
    let mut low = lower(&ends);
    let mut stuck = false;
    while count < MOST {
        let [first, last] = [ends[0].length.min(ends[1].length), ends[0].length.max(ends[1].length)];
        if last - first <= shortest {
            break;
        }
        let mut length = cubic_minimum(&ends[0], &ends[1], [first, last]);
        let margin = 0.1 * (last - first);
        if (last - length).min(length - first) < margin {
            if stuck || length >= last || length <= first {
                length = if last - length < length - first { last - margin } else { first + margin };
                stuck = false;
            } else {
                stuck = true;
            }
        } else {
            stuck = false;
        }
        let trial = evaluate(length)?;
        count += 1;
        if high(&trial) || trial.point.value >= ends[low].point.value {
            ends[1 - low] = trial;
            low = lower(&ends);
            continue;
        }
        let done = flat_enough(&trial);
        if !done && trial.slope * (ends[1 - low].length - ends[low].length) >= 0.0 {
            ends[1 - low] = ends[low].clone();
        }
        ends[low] = trial;
        if done {
            break;
        }
    }
    let [first, last] = ends;
    Ok(if low == 0 { first } else { last })
}

/// Where the cubic through two points with their slopes is least, within bounds.
fn cubic_minimum(a: &Trial, b: &Trial, [least, most]: [f64; 2]) -> f64 {
    let (a, b) = if a.length <= b.length { (a, b) } else { (b, a) };
    let d1 = a.slope + b.slope - 3.0 * (a.point.value - b.point.value) / (a.length - b.length);
    let square = d1 * d1 - a.slope * b.slope;
    if square < 0.0 {
        return (least + most) / 2.0;
    }
    let d2 = square.sqrt();
    let at = b.length - (b.length - a.length) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2.0 * d2));
    at.max(least).min(most)
}

fn flat<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let len = x.dims().iter().product::<usize>();
    x.reshape([len])
}

/// The variables that a flat tensor holds one after another.
fn parts<const D: usize>(x: &Tensor<1>, shapes: &[[usize; D]]) -> Vec<Tensor<D>> {
    let mut start = 0;
    let part = |shape: &[usize; D]| {
        let len = shape.iter().product();
        start += len;
        x.clone().narrow(0, start - len, len).reshape(*shape)
    };
    shapes.iter().map(part).collect()
}

fn dot(x: &Tensor<1>, y: &Tensor<1>) -> f64 {
    f64::from((x.clone() * y.clone()).sum().into_scalar::<f32>())
}

fn norm(x: &Tensor<1>) -> f64 {
    sum_of_squares(x).sqrt()
}

fn largest(x: &Tensor<1>) -> f64 {
    f64::from(x.clone().abs().max().into_scalar::<f32>())
}
