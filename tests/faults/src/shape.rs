//! How a mesh is put together.

use std::path::PathBuf;

/// Slots of a mesh that is not told otherwise, by this version or an earlier one.
pub const USUAL_SLOTS: u16 = 4096;

/// How a mesh is put together.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Session nodes.
    pub sessions: usize,
    /// Gateways.
    pub gateways: usize,
    /// Replicas of each registry.
    pub replicas: usize,
    /// Replicas of Redis that must have a write before it counts.
    pub wait_replicas: usize,
    /// Slots of the mesh.
    pub slots: u16,
    /// Share of the requests that is traced.
    pub sample: f64,
    /// Settings beyond, `section.key=value`, for all processes.
    pub more: Vec<String>,
    /// What is run instead of this version's binary, until [`crate::cluster::Cluster::upgrade`].
    pub former: Option<PathBuf>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            sessions: 3,
            gateways: 2,
            replicas: 2,
            wait_replicas: 0,
            slots: USUAL_SLOTS,
            sample: 1.0,
            more: Vec::new(),
            former: None,
        }
    }
}
