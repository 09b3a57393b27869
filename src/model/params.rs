//! A module's parameters by name: out to host tensors, in from them, and the numbers that need a walk over all of them.
//!
//! Names are module paths (`blocks.0.attention.qkv.weight`). On the host a projection's weight is stored as [out, in], as PyTorch
//! does, and inside the module as [in, out]; that turn happens here and nowhere else. Parameter ids are a hash of the
//! name, so that gradients and models made by different processes fit each other.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::FloatDType;

use crate::error::{Error, Result};
use crate::kernels;
use crate::weights::HostTensor;

/// Named host tensors, sorted by name.
pub type Named = BTreeMap<String, HostTensor>;

/// The path of the parameter being walked, and whether its owner is a projection.
#[derive(Default)]
struct Walk {
    names: Vec<String>,
    owners: Vec<String>,
}

impl Walk {
    fn enter(&mut self, name: &str, owner: &str) {
        self.names.push(name.to_string());
        self.owners.push(owner.to_string());
    }
    fn exit(&mut self) {
        self.names.pop();
        self.owners.pop();
    }
    fn path(&self) -> String {
        self.names.join(".")
    }
    /// Whether the parameter just entered is the weight of a `Dense`.
    fn transposed(&self) -> bool {
        self.names.last().is_some_and(|n| n == "weight") && self.owners.iter().any(|o| o.ends_with(":Dense"))
    }
}

/// The id of the parameter called `name`: its FNV-1a hash.
pub fn param_id(name: &str) -> ParamId {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3));
    ParamId::from(hash)
}

struct Export<F> {
    walk: Walk,
    wanted: F,
    out: Named,
}

impl<F: Fn(&str) -> bool> ModuleVisitor for Export<F> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.walk.enter(name, owner);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.walk.exit();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !(self.wanted)(&self.walk.path()) {
            return;
        }
        let tensor = param.val();
        let mut shape = tensor.dims().to_vec();
        let mut data = floats(tensor);
        if self.walk.transposed() {
            data = transpose(&data, shape[0], shape[1]);
            shape.reverse();
        }
        self.out.insert(self.walk.path(), HostTensor { shape, data });
    }
}

/// Every parameter of `module` on the host, projections as [out, in].
pub fn export<M: Module>(module: &M) -> Named {
    export_where(module, |_| true)
}

/// As [`export`], the parameters alone whose paths are `wanted`.
pub fn export_where<M: Module>(module: &M, wanted: impl Fn(&str) -> bool) -> Named {
    let mut v = Export { walk: Walk::default(), wanted, out: Named::new() };
    module.visit(&mut v);
    v.out
}

struct Import<'a> {
    walk: Walk,
    from: &'a Named,
    device: Device,
}

impl ModuleMapper for Import<'_> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.walk.enter(name, owner);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.walk.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.walk.path();
        let host = &self.from[&name];
        let (mut shape, data) = (host.shape.clone(), &host.data);
        let data = if self.walk.transposed() {
            let turned = transpose(data, shape[0], shape[1]);
            shape.reverse();
            turned
        } else {
            data.clone()
        };
        assert_eq!(shape.len(), D, "rank of {name} was checked before");
        drop(param);
        let value = Tensor::from_data(TensorData::new(data, shape), &self.device);
        Param::initialized(param_id(&name), value).set_require_grad(true)
    }
}

/// A copy of a network on `device`, where all its parameters are trained if it has autodiff.
pub fn copied<M: Module + Clone>(module: &M, device: &Device) -> M {
    import(module.clone(), &export(module), device)
}

/// `module` with every parameter replaced by the tensor of its name, on `device`.
///
/// Names and shapes must have been checked ([`crate::weights::match_names`]); a missing name is our own mistake.
pub fn import<M: Module>(module: M, from: &Named, device: &Device) -> M {
    module.map(&mut Import { walk: Walk::default(), from, device: device.clone() })
}

struct Shapes {
    walk: Walk,
    out: Vec<(String, Vec<usize>)>,
}

impl ModuleVisitor for Shapes {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.walk.enter(name, owner);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.walk.exit();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let mut shape = param.lazy_shape().to_vec();
        if self.walk.transposed() {
            shape.reverse();
        }
        self.out.push((self.walk.path(), shape));
    }
}

/// Path and host shape of every parameter of `module`, projections as [out, in].
pub fn shapes<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    let mut v = Shapes { walk: Walk::default(), out: Vec::new() };
    module.visit(&mut v);
    v.out
}

struct Fill<F> {
    walk: Walk,
    from: F,
    matrices: FloatDType,
    device: Device,
    failed: Option<Error>,
}

impl<F: FnMut(&str, &[usize]) -> Result<HostTensor>> ModuleMapper for Fill<F> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.walk.enter(name, owner);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.walk.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.failed.is_some() {
            return param;
        }
        let (name, transposed) = (self.walk.path(), self.walk.transposed());
        let inside = param.lazy_shape().to_vec();
        let outside: Vec<usize> = if transposed { inside.iter().rev().copied().collect() } else { inside.clone() };
        let host = match (self.from)(&name, &outside) {
            Ok(host) => host,
            Err(e) => {
                self.failed = Some(e);
                return param;
            }
        };
        assert_eq!(host.shape, outside, "the shape of {name} was checked before");
        let data = if transposed { transpose(&host.data, outside[0], outside[1]) } else { host.data };
        drop(param);
        let value = Tensor::<D>::from_data(TensorData::new(data, inside), &self.device);
        // Vectors (norms, biases) are small, and their digits count.
        let value = if D < 2 || self.matrices == FloatDType::F32 { value } else { value.cast(self.matrices) };
        Param::initialized(param_id(&name), value).set_require_grad(true)
    }
}

/// `module` with every parameter replaced by what `from` gives for its path and host shape, one after the other: only
/// one of them is ever in memory beside the module. Matrices are kept in the given type.
///
/// # Errors
/// The first of `from`, which ends it.
pub fn fill<M: Module>(
    module: M,
    matrices: FloatDType,
    device: &Device,
    from: impl FnMut(&str, &[usize]) -> Result<HostTensor>,
) -> Result<M> {
    let mut v = Fill { walk: Walk::default(), from, matrices, device: device.clone(), failed: None };
    let module = module.map(&mut v);
    match v.failed {
        Some(e) => Err(e),
        None => Ok(module),
    }
}

struct Rename(Walk);

impl ModuleMapper for Rename {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.0.enter(name, owner);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.0.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let active = param.is_require_grad();
        Param::initialized(param_id(&self.0.path()), param.val()).set_require_grad(active)
    }
}

/// `module` with the ids that its parameters have at their places; values are shared.
pub fn renamed<M: Module>(module: M) -> M {
    module.map(&mut Rename(Walk::default()))
}

/// A matrix [rows, cols] as [cols, rows].
pub fn transpose(data: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; data.len()];
    for r in 0..rows {
        for c in 0..cols {
            out[c * rows + r] = data[r * cols + c];
        }
    }
    out
}

/// The values of a tensor on the host as f32, row-major.
///
/// # Panics
/// Where the device fails to hand them over.
pub fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    match tensor.into_data().convert::<f32>().try_into_vec::<f32>() {
        Ok(v) => v,
        Err(e) => panic!("reading a float tensor: {e:?}"),
    }
}

struct SqNorm<'a> {
    grads: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for SqNorm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(g) = self.grads.get::<D>(param.id) {
            self.sums.push(kernels::square_sum(g));
        }
    }
}

/// The global L2 norm of the gradients (Burn's own clipping is per tensor), read from the device once.
pub fn gradient_norm<M: Module>(module: &M, grads: &GradientsParams) -> f64 {
    let mut v = SqNorm { grads, sums: Vec::new() };
    module.visit(&mut v);
    if v.sums.is_empty() {
        return 0.0;
    }
    floats(Tensor::cat(v.sums, 0)).into_iter().map(f64::from).sum::<f64>().sqrt()
}

/// One parameter on its way through [`update`].
pub struct Visit<'a> {
    /// Its path in the module.
    pub name: &'a str,
    /// Its number of dimensions.
    pub rank: usize,
    /// Its values `[N]`, without autodiff; nobody else holds them.
    pub value: Tensor<1>,
    /// Its gradient `[N]`, if it has one.
    pub gradient: Option<Tensor<1>>,
}

struct Update<'a, F> {
    walk: Walk,
    grads: &'a mut GradientsParams,
    f: F,
}

impl<F: FnMut(Visit) -> Tensor<1>> ModuleMapper for Update<'_, F> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.walk.enter(name, owner);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.walk.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self.grads.remove::<D>(param.id);
        let (id, value, _) = param.consume();
        let (shape, tracked) = (value.dims(), value.is_autodiff());
        let n = shape.iter().product::<usize>();
        let value = value.without_autodiff();
        let gradient = gradient.map(|g| g.without_autodiff().reshape([n]));
        let name = self.walk.path();
        let value = (self.f)(Visit { name: &name, rank: D, value: value.reshape([n]), gradient }).reshape(shape);
        let value = if tracked { value.autodiff() } else { value };
        Param::initialized(id, value).set_require_grad(tracked)
    }
}

/// `module` with every parameter replaced by what `f` makes of it and of its gradient.
pub fn update<M: Module>(module: M, grads: &mut GradientsParams, f: impl FnMut(Visit) -> Tensor<1>) -> M {
    module.map(&mut Update { walk: Walk::default(), grads, f })
}

struct Count(usize);

impl ModuleVisitor for Count {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0 += param.lazy_shape().num_elements();
    }
}

/// Number of parameters.
pub fn count<M: Module>(module: &M) -> usize {
    let mut c = Count(0);
    module.visit(&mut c);
    c.0
}

struct Gradients<'a> {
    walk: Walk,
    grads: &'a GradientsParams,
    out: Named,
}

impl ModuleVisitor for Gradients<'_> {
    fn enter_module(&mut self, name: &str, owner: &str) {
        self.walk.enter(name, owner);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.walk.exit();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(g) = self.grads.get::<D>(param.id) else { return };
        let mut shape = g.dims().to_vec();
        let mut data = floats(g);
        if self.walk.transposed() {
            data = transpose(&data, shape[0], shape[1]);
            shape.reverse();
        }
        self.out.insert(self.walk.path(), HostTensor { shape, data });
    }
}

/// The gradients of `module`'s parameters on the host, in the layout of [`export`].
pub fn gradients<M: Module>(module: &M, grads: &GradientsParams) -> Named {
    let mut v = Gradients { walk: Walk::default(), grads, out: Named::new() };
    module.visit(&mut v);
    v.out
}
