//! Time, processes and what lies between them, all from one seed.

pub(crate) mod exec;
pub(crate) mod net;
pub(crate) mod rng;

pub(crate) use self::exec::{Ctx, Micros, Proc, Sim};
pub(crate) use self::net::{Net, Queue, Rx, Tx};
