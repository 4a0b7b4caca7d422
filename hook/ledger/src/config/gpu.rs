//! `[gpu]`: the GPUs and their driver.

use std::path::PathBuf;

use serde::Deserialize;

use crate::sharing::Shared;

/// How leased GPUs get into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Inject {
    /// By the CDI spec.
    #[default]
    Cdi,
    /// By naming their UUIDs to NVIDIA's runtime, in the environment.
    Env,
}

/// `[gpu]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GpuConfig {
    /// The NVML library to load.
    pub nvml: String,
    /// The driver's folder of facts; its `gpus/<pci>/information` say what exists.
    pub proc: PathBuf,
    /// The folder of the driver's kernel module: another one after it was loaded anew.
    pub module: PathBuf,
    /// Where device nodes are.
    pub dev: PathBuf,
    /// How leased GPUs get into a container.
    pub inject: Inject,
    /// Where CDI specs are, a later one overriding an earlier.
    pub cdi_dirs: Vec<PathBuf>,
    /// The CDI kind of the GPUs.
    pub cdi_kind: String,
    /// Programs (by /proc/PID/comm) that keep GPUs open without using them.
    pub watchers: Vec<String>,
    /// The kernel's list of device majors, in which nvidia-caps has its own.
    pub majors: PathBuf,
    /// Variables from which NVIDIA's toolkit takes GPUs before NVIDIA_VISIBLE_DEVICES: `swarm-resource` in
    /// its config.toml, from which setup has it.
    pub swarm_resource: Vec<String>,
    /// GPUs that several containers may share, each a slot.
    pub shared: Vec<Shared>,
}

impl Default for GpuConfig {
    fn default() -> Self {
        Self {
            nvml: "libnvidia-ml.so.1".into(),
            proc: "/proc/driver/nvidia".into(),
            module: "/sys/module/nvidia".into(),
            dev: "/dev".into(),
            inject: Inject::Cdi,
            cdi_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            cdi_kind: "nvidia.com/gpu".into(),
            watchers: [
                "nvidia-persiste",
                "nv-hostengine",
                "dcgm-exporter",
                "nvidia-smi",
                "docker-gpuctl",
            ]
            .map(String::from)
            .to_vec(),
            majors: "/proc/devices".into(),
            swarm_resource: Vec::new(),
            shared: Vec::new(),
        }
    }
}
