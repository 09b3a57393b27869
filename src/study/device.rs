//! The device a user names, opened; nothing else in the program chooses one.

use burn::prelude::Device;

use crate::error::{Error, Result, nearest};

/// Names of the devices this binary was built with.
pub fn compiled() -> Vec<&'static str> {
    let mut names = Vec::new();
    if cfg!(feature = "flex") {
        names.push("flex");
    }
    if cfg!(feature = "ndarray") {
        names.push("ndarray");
    }
    for (there, name) in [
        (cfg!(feature = "cuda"), "cuda"),
        (cfg!(feature = "wgpu"), "wgpu"),
        (cfg!(feature = "vulkan"), "vulkan"),
        (cfg!(feature = "metal"), "metal"),
    ] {
        if there {
            names.push(name);
        }
    }
    names
}

/// The first device that this binary was built with: a processor where it has one.
///
/// # Errors
/// A binary that was built without any (usage), a GPU that is not there (device).
pub fn first() -> Result<Device> {
    match compiled().first() {
        Some(name) => open(name),
        None => Err(Error::usage("fewstep was built without a device").hint("build it with the feature `flex`")),
    }
}

const KNOWN: [&str; 6] = ["flex", "ndarray", "cuda", "wgpu", "vulkan", "metal"];

/// Opens the device `name`, such as `flex` or `cuda:1`.
///
/// # Errors
/// A name that is not known or a device that this binary was not built for (usage), a GPU that is not there (device).
pub fn open(name: &str) -> Result<Device> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => {
            let index = index.parse::<usize>().map_err(|_| {
                Error::usage(format!("`--device {name}`: `{index}` is not a device number"))
                    .hint(format!("`--device {kind}:0`"))
            })?;
            (kind, Some(index))
        }
        None => (name, None),
    };
    if !KNOWN.contains(&kind) {
        let error = Error::usage(format!("unknown device `{name}`"));
        return Err(match nearest(kind, KNOWN) {
            Some(near) => error.hint(format!("did you mean `--device {near}`?")),
            None => error.hint(format!("this binary has {}", compiled().join(", "))),
        });
    }
    if index.is_some() && matches!(kind, "flex" | "ndarray") {
        return Err(Error::usage(format!("`--device {name}`: there is only one {kind} device"))
            .hint(format!("`--device {kind}`")));
    }
    let _ = index;
    match kind {
        #[cfg(feature = "flex")]
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)] // kept as a cross-check of flex as long as Burn ships it
        "ndarray" => Ok(Device::ndarray()),
        #[cfg(feature = "cuda")]
        "cuda" => cuda(index.unwrap_or(0)),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(Default::default())),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(Default::default())),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(Default::default())),
        other => Err(Error::usage(format!("this binary was built without the device `{other}`"))
            .cause(format!("it has {}", compiled().join(", ")))
            .hint(format!("`cargo build --release --features {other}`"))),
    }
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Device> {
    let there = Device::enumerate(burn::tensor::DeviceType::Cuda).len();
    if index >= there {
        return Err(Error::new(
            crate::error::Kind::Device,
            format!("cuda:{index} is not there: {there} CUDA devices found"),
        )
        .hint("`--device flex` runs on the processor"));
    }
    Ok(Device::cuda(index))
}
