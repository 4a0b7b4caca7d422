//! How keys are spelled: here and nowhere else. docs/ledger.md shows them.

use crate::model::{ContainerId, ContainerName, NodeName, Unit, Version, VolumeName};

/// The keys of one node, all under one prefix: one range read, one watch, one grant of rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// The keys of this node.
    pub fn new(node: &NodeName) -> Self {
        Self { prefix: format!("/gpuctl/v1/nodes/{node}/") }
    }
    /// What every key of the node begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
    /// The node's own record.
    pub fn node(&self) -> String {
        format!("{}self", self.prefix)
    }
    /// What every lease's key begins with.
    pub fn leases(&self) -> String {
        format!("{}leases/", self.prefix)
    }
    /// The lease of a GPU.
    pub fn lease(&self, unit: &Unit) -> String {
        format!("{}leases/{unit}", self.prefix)
    }
    /// What every binding's key begins with.
    pub fn bindings(&self) -> String {
        format!("{}bindings/", self.prefix)
    }
    /// The binding of a container.
    pub fn binding(&self, id: &ContainerId) -> String {
        format!("{}bindings/{id}", self.prefix)
    }
    /// What every container record's key begins with.
    pub fn containers(&self) -> String {
        format!("{}containers/", self.prefix)
    }
    /// The record of a managed container.
    pub fn container(&self, name: &ContainerName) -> String {
        format!("{}containers/{name}", self.prefix)
    }
    /// What the keys of a container's versions begin with.
    pub fn versions(&self, name: &ContainerName) -> String {
        format!("{}versions/{name}/", self.prefix)
    }
    /// One version. The number is padded, so that keys sort as versions do.
    pub fn version(&self, name: &ContainerName, version: Version) -> String {
        format!("{}versions/{name}/{:010}", self.prefix, version.0)
    }
    /// What every journal's key begins with.
    pub fn operations(&self) -> String {
        format!("{}operations/", self.prefix)
    }
    /// The journal of the change to a container that is under way.
    pub fn operation(&self, name: &ContainerName) -> String {
        format!("{}operations/{name}", self.prefix)
    }
    /// What every port's key begins with.
    pub fn ports(&self) -> String {
        format!("{}ports/", self.prefix)
    }
    /// A port of the host.
    pub fn port(&self, port: u16) -> String {
        format!("{}ports/{port:05}", self.prefix)
    }
    /// What every volume record's key begins with.
    pub fn volumes(&self) -> String {
        format!("{}volumes/", self.prefix)
    }
    /// The record of a volume.
    pub fn volume(&self, name: &VolumeName) -> String {
        format!("{}volumes/{name}", self.prefix)
    }
    /// What the keys of a volume's versions begin with.
    pub fn volume_versions(&self, name: &VolumeName) -> String {
        format!("{}volume-versions/{name}/", self.prefix)
    }
    /// One version of a volume, the number padded as of containers.
    pub fn volume_version(&self, name: &VolumeName, version: Version) -> String {
        format!("{}volume-versions/{name}/{:010}", self.prefix, version.0)
    }
    /// What every journal of a volume begins with.
    pub fn volume_operations(&self) -> String {
        format!("{}volume-operations/", self.prefix)
    }
    /// The journal of the change to a volume that is under way.
    pub fn volume_operation(&self, name: &VolumeName) -> String {
        format!("{}volume-operations/{name}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_numbers_and_no_name_is_a_prefix_of_anothers_versions() {
        let keys = Keys::new(&NodeName::new("gpu1").unwrap());
        let name = |t| ContainerName::new(t).unwrap();
        assert!(
            keys.version(&name("train"), Version(9)) < keys.version(&name("train"), Version(10))
        );
        assert!(
            !keys.version(&name("train-2"), Version(0)).starts_with(&keys.versions(&name("train")))
        );
    }
}
