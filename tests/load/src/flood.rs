//! As many sessions as a server will make: `initialize` again and again, on many connections.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use http::StatusCode;
use http::header::RETRY_AFTER;
use serde::Serialize;

use crate::connection::{Connection, Target};
use crate::dialogue;

/// What came of it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Report {
    /// Sessions made.
    pub accepted: u64,
    /// Refused with the moment to come back.
    pub refused: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Asks for sessions until the time is over. Every second connection finishes the handshakes of its sessions.
///
/// # Errors
/// When an answer is neither a session nor a refusal that says when to come back.
pub async fn flood(target: &Target, connections: usize, time: Duration) -> Result<Report> {
    let begin = Instant::now();
    let done = try_join_all((0..connections).map(|number| async move {
        let (mut report, headers) = (Report::default(), dialogue::headers());
        let mut connection = Connection::open(target).await?;
        while begin.elapsed() < time {
            let answer = connection.send(dialogue::initialize(target, &headers)).await?;
            match answer.status() {
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    ensure!(answer.headers().contains_key(RETRY_AFTER), "refused without Retry-After");
                    report.refused += 1;
                }
                _ => {
                    let session = dialogue::created(&answer)?;
                    report.accepted += 1;
                    if number % 2 == 1 {
                        dialogue::initialized(&mut connection, target, &headers, &session).await?;
                    }
                }
            }
        }
        Ok::<_, anyhow::Error>(report)
    }))
    .await?;
    let sum = |count: fn(&Report) -> u64| done.iter().map(count).sum();
    Ok(Report {
        accepted: sum(|report| report.accepted),
        refused: sum(|report| report.refused),
        seconds: begin.elapsed().as_secs_f64(),
    })
}
