//! The names of <https://github.com/rosinality/stylegan2-pytorch>, the best-known PyTorch port: which of its tensors is a
//! parameter here.

/// The port's name of a generator's parameter or buffer, by its path below `generator`.
pub fn generator_name(path: &str) -> Option<String> {
    let (first, rest) = path.split_once('.')?;
    if first == "mapping" {
        if rest == "mean" {
            return Some("latent_avg".into());
        }
        let (layer, what) = rest.strip_prefix("layers.")?.split_once('.')?;
        // The first of its layers normalises z.
        return Some(format!("style.{}.{what}", layer.parse::<usize>().ok()? + 1));
    }
    if rest == "constant" {
        return Some("input.input".into());
    }
    let (level, rest) = rest.strip_prefix("blocks.")?.split_once('.')?;
    let level: usize = level.parse().ok()?;
    let (layer, what) = rest.split_once('.')?;
    if layer == "to_picture" {
        let theirs = if level == 0 { "to_rgb1".to_string() } else { format!("to_rgbs.{}", level - 1) };
        return Some(match what {
            "conv.bias" => format!("{theirs}.bias"),
            "conv.weight" => format!("{theirs}.conv.weight"),
            _ => format!("{theirs}.conv.modulation.{}", what.strip_prefix("affine.")?),
        });
    }
    // Convolutions in their order: one of the first size, two of each further one.
    let index = match (level, layer) {
        (0, "conv") => 0,
        (_, "up") => 2 * level - 1,
        _ => 2 * level,
    };
    if what == "noise.constant" {
        return Some(format!("noises.noise_{index}"));
    }
    let theirs = if index == 0 { "conv1".to_string() } else { format!("convs.{}", index - 1) };
    Some(match what {
        "conv.weight" => format!("{theirs}.conv.weight"),
        "conv.bias" => format!("{theirs}.activate.bias"),
        "noise.strength" => format!("{theirs}.noise.weight"),
        _ => format!("{theirs}.conv.modulation.{}", what.strip_prefix("affine.")?),
    })
}

/// The port's name of a discriminator's parameter, by its path below `discriminator`.
pub fn discriminator_name(path: &str) -> Option<String> {
    // A layer with an activation is a list: the blur where there is one, the convolution, the bias.
    let layer = |theirs: &str, what: &str, conv: usize| match what {
        "weight" => Some(format!("{theirs}.{conv}.weight")),
        "bias" => Some(format!("{theirs}.{}.bias", conv + 1)),
        _ => None,
    };
    let (first, rest) = path.split_once('.')?;
    match first {
        "from_picture" => layer("convs.0", rest, 0),
        "conv" => layer("final_conv", rest, 0),
        "hidden" => Some(format!("final_linear.0.{rest}")),
        "logit" => Some(format!("final_linear.1.{rest}")),
        "blocks" => {
            let (index, rest) = rest.split_once('.')?;
            let theirs = format!("convs.{}", index.parse::<usize>().ok()? + 1);
            let (name, what) = rest.split_once('.')?;
            match name {
                "conv" => layer(&format!("{theirs}.conv1"), what, 0),
                "down" => layer(&format!("{theirs}.conv2"), what, 1),
                _ => layer(&format!("{theirs}.skip"), what, 1),
            }
        }
        _ => None,
    }
}
