//! Whoever sits at the terminal: sees progress and log messages on standard error, and is asked.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use async_trait::async_trait;
use indicatif::{ProgressBar, ProgressStyle};
use mcp::method::server_request;
use mcp::rpc::RpcError;
use mcp::{Json, code};
use upstream::{Listener, Question};

use super::{plain, question};

/// See the module.
pub(super) struct Desk {
    bar: ProgressBar,
    is_watched: bool,
    is_manned: bool,
}

/// Shows that something is waited for, as long as it lives.
pub(super) struct Waiting<'a>(&'a ProgressBar);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Desk {
    pub(super) fn new() -> Self {
        let is_watched = io::stderr().is_terminal();
        let bar = if is_watched { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        Self { bar, is_watched, is_manned: is_watched && io::stdin().is_terminal() }
    }

    /// Whether somebody sees progress.
    pub(super) const fn is_watched(&self) -> bool {
        self.is_watched
    }

    pub(super) fn waiting(&self, what: &str) -> Waiting<'_> {
        self.bar.reset();
        self.bar.set_style(ProgressStyle::default_spinner());
        self.bar.set_message(what.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(100));
        Waiting(&self.bar)
    }

    /// A line on standard error.
    pub(super) fn say(&self, text: &str) {
        self.bar.suspend(|| {
            // Nobody is left to be told if standard error is gone.
            let _told = writeln!(io::stderr(), "{text}").is_ok();
        });
    }

    async fn elicit(&self, params: Option<&Json>) -> Result<Json, RpcError> {
        let params = params.cloned().unwrap_or_else(Json::empty_object);
        if !self.is_manned {
            let asked = plain::line(&params.text("message").unwrap_or_default());
            self.say(&format!("declined, as nobody is at a terminal to answer: {asked}"));
            return Ok(Json::trusted("{\"action\":\"decline\"}"));
        }
        let bar = self.bar.clone();
        let answered = tokio::task::spawn_blocking(move || {
            bar.suspend(|| question::put(&params, &mut io::stdin().lock(), &mut io::stderr().lock()))
        });
        match answered.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Ok(Json::trusted("{\"action\":\"cancel\"}")),
        }
    }
}

#[async_trait]
impl Listener for Desk {
    fn progress(&self, params: &Json) {
        let number = |key| params.member(key).and_then(|value| value.as_str().parse::<f64>().ok());
        if let Some(message) = params.text("message") {
            self.bar.set_message(plain::line(&message));
        }
        match (number("progress"), number("total")) {
            (Some(done), Some(total)) if total > 0.0 => {
                if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:30}] {percent:>3}% {msg}") {
                    self.bar.set_style(style.progress_chars("=> "));
                }
                // Totals may be fractions; a bar counts in thousandths.
                self.bar.set_length(1000);
                self.bar.set_position((done / total * 1000.0).clamp(0.0, 1000.0) as u64);
            }
            (Some(done), _) => {
                if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {msg}") {
                    self.bar.set_style(style);
                }
                self.bar.set_prefix(done.to_string());
            }
            (None, _) => {}
        }
    }

    fn log(&self, params: &Json) {
        let level = params.text("level").unwrap_or_default();
        let data = params.member("data").map(|data| match mcp::scan::string(data.as_str()) {
            Some(text) => plain::line(&text),
            None => plain::line(data.as_str()),
        });
        self.say(&format!("{}: {}", plain::line(&level), data.unwrap_or_default()));
    }

    async fn answer(&self, question: &Question) -> Result<Json, RpcError> {
        match question.method.as_str() {
            server_request::ELICIT => self.elicit(question.params.as_ref()).await,
            other => {
                Err(RpcError::new(code::METHOD_NOT_FOUND, format!("this client does not answer {other}")))
            }
        }
    }
}
