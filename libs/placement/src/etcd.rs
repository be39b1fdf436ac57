//! The lease store that is etcd.
//!
//! Owns: connections, deadlines, turning to the next member, and the translation of both sides. Must not know: what is kept.

use std::fmt;

/// How to reach etcd.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdConfig {
    /// Its members: `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    /// User and password, where it asks for them.
    pub user: Option<(String, String)>,
    /// Certificates (PEM) that vouch for its members; `None` with `https` = those of the system are not asked either.
    pub ca: Option<Vec<u8>>,
    /// Certificate and key (PEM) of this process, where it asks for them.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}
