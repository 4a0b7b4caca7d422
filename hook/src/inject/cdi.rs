//! CDI specs: read from their folders, searched for a GPU, applied to an empty OCI spec.
//!
//! The container-device-interface crate knows the format and what an edit comes to. Its cache is not
//! used: it reads everything, with the JSON schema, before a container can start.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use container_device_interface::container_edits::{ContainerEdits, Validate as _};
use container_device_interface::spec::parse_spec;
use container_device_interface::specs::config;
use gpuctl_ledger::model::Piece;
use serde_json::{Value, json};

use super::InjectError;
use crate::devices::{NVIDIA_MAJOR, is_gpu_minor};
use crate::spec::str_of;

/// Longest CDI spec that is read, in bytes.
const LONGEST: u64 = 16 * 1024 * 1024;
/// Most files of one folder that are read.
const MOST_FILES: usize = 256;

/// The CDI specs of one kind, as their folders held them at [`CdiSpecs::load`].
#[derive(Debug, Clone)]
pub struct CdiSpecs {
    kind: String,
    dev: PathBuf,
    /// Later folders last.
    files: Vec<File>,
    broken: Vec<PathBuf>,
}

#[derive(Debug, Clone)]
struct File {
    priority: usize,
    edits: Value,
    devices: Vec<(String, Value)>,
}

impl CdiSpecs {
    /// Reads the CDI specs of a kind, `nvidia.com/gpu`, from the `.json` and `.yaml` files of some
    /// folders, a later folder overriding an earlier. A folder that is not there holds nothing.
    ///
    /// # Errors
    /// [`InjectError::NoSpec`] where no file of that kind can be read.
    pub fn load(dirs: &[PathBuf], kind: &str) -> Result<Self, InjectError> {
        let mut specs =
            Self { kind: kind.into(), dev: "/dev".into(), files: Vec::new(), broken: Vec::new() };
        for (priority, dir) in dirs.iter().enumerate() {
            for path in spec_files(dir) {
                match read(&path) {
                    Some(value) => specs.add(&value, priority),
                    None => specs.broken.push(path),
                }
            }
        }
        if specs.files.is_empty() { Err(specs.none()) } else { Ok(specs) }
    }

    /// Takes nodes that a spec names below /dev from another folder.
    #[must_use]
    pub fn with_dev(mut self, dev: &Path) -> Self {
        self.dev = dev.to_owned();
        self
    }

    fn none(&self) -> InjectError {
        InjectError::NoSpec {
            kind: self.kind.clone(),
            broken: self.broken.first().map(|p| p.display().to_string()),
        }
    }

    fn add(&mut self, value: &Value, priority: usize) {
        if str_of(value, "kind") != self.kind {
            return;
        }
        let edits = |v: &Value| v.get("containerEdits").cloned().unwrap_or_else(|| json!({}));
        let devices = value.get("devices").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        self.files.push(File {
            priority,
            edits: edits(value),
            devices: devices.iter().map(|d| (str_of(d, "name").to_owned(), edits(d))).collect(),
        });
    }

    /// The edits for some GPUs: those of each file in use once, and those of each GPU.
    pub(super) fn edits_for(&self, held: &[Piece<'_>]) -> Result<Vec<Value>, InjectError> {
        let mut used = BTreeSet::new();
        let mut edits = Vec::new();
        for piece in held {
            let (file, device) = self.device(piece)?;
            if used.insert(file) {
                edits.extend(self.files.get(file).map(|f| self.numbered(&f.edits)));
            }
            edits.push(self.numbered(device));
        }
        Ok(edits)
    }

    /// All edits that any device of the kind would make.
    pub(super) fn all_edits(&self) -> impl Iterator<Item = Value> {
        let of = |f: &'_ File| -> Vec<Value> {
            std::iter::once(&f.edits)
                .chain(f.devices.iter().map(|(_, edits)| edits))
                .map(|edits| self.numbered(edits))
                .collect()
        };
        self.files.iter().flat_map(of).collect::<Vec<_>>().into_iter()
    }

    /// The device of a GPU or MIG device: by UUID, by index, or by its nodes. Whatever its name, its
    /// nodes must have the right minors: indexes change with the order of the cards, MIG devices are
    /// made anew, and a spec may be older.
    fn device(&self, piece: &Piece<'_>) -> Result<(usize, &Value), InjectError> {
        let (gpu, mig) = (piece.gpu.index, piece.mig().map(|mig| mig.index));
        let [by_index, by_type] = match mig {
            None => [gpu.to_string(), format!("gpu{gpu}")],
            Some(mig) => [format!("{gpu}:{mig}"), format!("mig{gpu}:{mig}")],
        };
        for name in [piece.uuid().as_str().to_owned(), by_index, by_type] {
            if let Some(found) =
                self.best(|n, e| n.eq_ignore_ascii_case(&name) && self.is(e, piece))?
            {
                return Ok(found);
            }
        }
        self.best(|_, edits| self.is(edits, piece))?.ok_or_else(|| InjectError::NoDevice {
            gpu: piece.uuid().as_str().to_owned(),
            kind: self.kind.clone(),
            minor: piece.gpu.minor,
        })
    }

    /// The one device that fits, of the last folder that has any.
    fn best(
        &self,
        fits: impl Fn(&str, &Value) -> bool,
    ) -> Result<Option<(usize, &Value)>, InjectError> {
        let mut best: Option<(usize, usize, &str, &Value)> = None;
        for (at, file) in self.files.iter().enumerate() {
            for (name, edits) in file.devices.iter().filter(|(n, e)| fits(n, e)) {
                match best {
                    Some((_, priority, other, have)) if priority == file.priority => {
                        if other == name && have != edits {
                            return Err(InjectError::Ambiguous(format!("{}={name}", self.kind)));
                        }
                    }
                    _ => best = Some((at, file.priority, name, edits)),
                }
            }
        }
        Ok(best.map(|(at, _, _, edits)| (at, edits)))
    }

    /// Whether a device's only GPU node is this GPU's, and its nvidia-caps nodes are the MIG device's:
    /// none for a whole GPU.
    fn is(&self, edits: &Value, piece: &Piece<'_>) -> bool {
        let mut minors = BTreeSet::new();
        let mut caps = BTreeSet::new();
        for node in nodes(edits) {
            if str_of(node, "path").contains("/nvidia-caps/") {
                let Some((_, _, minor)) = self.numbers(node) else { return false };
                caps.insert(minor);
            } else if let Some(("c", NVIDIA_MAJOR, minor)) = self.numbers(node)
                && is_gpu_minor(minor)
            {
                minors.insert(minor);
            }
        }
        let wanted: BTreeSet<u32> = piece.mig().into_iter().flat_map(|mig| mig.caps).collect();
        minors.len() == 1 && minors.contains(&piece.gpu.minor) && caps == wanted
    }

    /// The edits with type and numbers written into each node, as far as they are known.
    fn numbered(&self, edits: &Value) -> Value {
        let mut edits = edits.clone();
        let list = edits.get_mut("deviceNodes").and_then(Value::as_array_mut);
        for node in list.into_iter().flatten() {
            let numbers = self.numbers(node);
            if let (Some((kind, major, minor)), Some(map)) = (numbers, node.as_object_mut()) {
                map.insert("type".into(), kind.into());
                map.insert("major".into(), major.into());
                map.insert("minor".into(), minor.into());
            }
        }
        edits
    }

    /// Type, major and minor of a node: the spec's own numbers, or those of the node on the host.
    fn numbers(&self, node: &Value) -> Option<(&'static str, u32, u32)> {
        let number = |key| node.get(key)?.as_u64().and_then(|n| u32::try_from(n).ok());
        let kind = match str_of(node, "type") {
            "b" => "b",
            "p" => return None,
            _ => "c",
        };
        if let (Some(major), Some(minor)) = (number("major"), number("minor")) {
            return Some((kind, major, minor));
        }
        let named = node.get("hostPath").and_then(Value::as_str).filter(|p| !p.is_empty());
        let path = Path::new(named.unwrap_or_else(|| str_of(node, "path")));
        let path = path.strip_prefix("/dev").map_or(path.to_owned(), |rest| self.dev.join(rest));
        let meta = std::fs::metadata(path).ok()?;
        let kind = match meta.file_type() {
            t if t.is_char_device() => "c",
            t if t.is_block_device() => "b",
            _ => return None,
        };
        let split = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
        Some((kind, u32::try_from(split.0).ok()?, u32::try_from(split.1).ok()?))
    }
}

/// The device nodes of edits.
pub(super) fn nodes(edits: &Value) -> &[Value] {
    edits.get("deviceNodes").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// What edits come to: an OCI spec that holds nothing else, for a process of this user and group.
pub(super) fn applied(edits: Vec<Value>, user: (u32, u32)) -> Result<Value, InjectError> {
    let mut sum = ContainerEdits::new();
    for one in edits {
        for node in nodes(&one) {
            // The crate would look on the host for it, and say so in the system's words.
            if node.get("major").is_none_or(Value::is_null) && str_of(node, "type") != "p" {
                return Err(InjectError::NoNode(str_of(node, "path").to_owned()));
            }
        }
        let one: config::ContainerEdits =
            serde_json::from_value(one).map_err(|_| InjectError::Wrong)?;
        sum.append(ContainerEdits { container_edits: one }).map_err(|_| InjectError::Wrong)?;
    }
    sum.validate().map_err(|_| InjectError::Wrong)?;
    let mut empty: oci_spec::runtime::Spec = serde_json::from_value(json!({
        "ociVersion": "1.0.2", "linux": {}, "mounts": [],
        "process": {"user": {"uid": user.0, "gid": user.1}, "cwd": "/", "env": [], "args": []}
    }))
    .map_err(|_| InjectError::Wrong)?;
    sum.apply(&mut empty).map_err(|_| InjectError::Wrong)?;
    serde_json::to_value(empty).map_err(|_| InjectError::Wrong)
}

/// The spec files of a folder, by name.
fn spec_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let is_spec =
        |p: &PathBuf| p.extension().is_some_and(|e| e == "json" || e == "yaml") && p.is_file();
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(is_spec).take(MOST_FILES).collect();
    files.sort();
    files
}

/// One CDI spec, checked against the crate's types; `None` where it is torn, wrong or too long.
fn read(path: &Path) -> Option<Value> {
    let spec = if path.extension().is_some_and(|e| e == "json") {
        let mut bytes = Vec::new();
        std::fs::File::open(path).ok()?.take(LONGEST + 1).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 > LONGEST {
            return None;
        }
        serde_json::from_slice::<config::Spec>(&bytes).ok()?
    } else {
        if std::fs::metadata(path).ok()?.len() > LONGEST {
            return None;
        }
        parse_spec(&path.to_owned()).ok()?
    };
    serde_json::to_value(spec).ok()
}
