//! Work of the built-in registries in the trace of whoever asked for it, under the name of its role: log lines of a tool that takes
//! its time name both.

use std::sync::Arc;

use chassis::telemetry::Scope;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use registry::{Runtime, Spawner};

use crate::role::Role;

struct Scoped {
    role: Role,
    inner: Arc<dyn Spawner>,
}

impl Spawner for Scoped {
    fn spawn(&self, work: BoxFuture<'static, ()>) {
        let scope = Scope::current().in_role(self.role.name());
        self.inner.spawn(scope.within(work).boxed());
    }
}

/// The same runtime, whose work keeps its trace.
pub(crate) fn in_role(role: Role, runtime: Runtime) -> Runtime {
    Runtime { spawner: Arc::new(Scoped { role, inner: runtime.spawner }), ..runtime }
}
