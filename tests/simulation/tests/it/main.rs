//! Worlds by the hundred: nothing may break in ordinary ones, everything must be noticed in those that are broken on purpose.

mod findings;
mod pauses;
mod repeats;
mod sabotages;
mod seeds;
