//! How a command ends: an exit code, and one sentence that says what to do.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use mcp::{Json, code};
use upstream::{Error, Refusal};

use super::plain;

const TOOL_ERROR: u8 = 1;
const USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;
const REFUSED: u8 = 4;
const CANCELLED: u8 = 130;

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ending {
    code: u8,
    text: String,
    /// The server does not know what was named.
    is_unknown: bool,
}

impl Ending {
    pub(super) const fn done() -> Self {
        Self { code: 0, text: String::new(), is_unknown: false }
    }

    pub(super) fn tool_error() -> Self {
        Self::new(TOOL_ERROR, "the tool reports an error".to_owned())
    }

    pub(super) const fn usage(text: String) -> Self {
        Self::new(USAGE, text)
    }

    pub(super) fn failed(error: impl Display) -> Self {
        Self::new(TOOL_ERROR, error.to_string())
    }

    pub(super) fn of(error: &Error, url: &str) -> Self {
        let executed = "what was asked for may have been done";
        match error {
            Error::Unreachable(cause) => Self::new(
                UNREACHABLE,
                format!("cannot reach {url}: {cause}; is it running? `trunkline up` starts one"),
            ),
            Error::Lost(cause) => Self::new(
                UNREACHABLE,
                format!("the connection to {url} was lost before the answer came ({cause}); {executed}"),
            ),
            Error::Timeout => Self::new(
                UNREACHABLE,
                format!("no answer from {url} in time; {executed}; --timeout SECONDS waits longer"),
            ),
            Error::Redirect { status, location } => {
                let location = plain::line(location);
                Self::new(
                    REFUSED,
                    format!("{url} sends elsewhere (status {status}): ask {location} if you trust it"),
                )
            }
            Error::Refused(refusal) => Self::refused(refusal, url),
            Error::Revision(offered) => {
                let offered = plain::line(offered);
                Self::new(
                    REFUSED,
                    format!("{url} does not speak the wanted protocol, it offers {offered}; try --era auto"),
                )
            }
            Error::Protocol(_) | Error::TooLarge(_) | Error::Rounds(_) | Error::Unanswerable(_) => Self::new(
                REFUSED,
                format!("the answer of {url} cannot be used: {}", plain::line(&error.to_string())),
            ),
            Error::Cancelled => Self::new(CANCELLED, format!("cancelled; {executed}")),
        }
    }

    /// Adds the name that may have been meant.
    pub(super) fn suggesting(mut self, name: &str, known: Option<&[Json]>) -> Self {
        if !self.is_unknown {
            return self;
        }
        let names: Vec<String> =
            known.unwrap_or_default().iter().filter_map(|tool| tool.text("name")).collect();
        let near =
            |other: &&String| other.contains(name) || name.contains(other.as_str()) || alike(name, other);
        let hint = match names.iter().find(near) {
            Some(near) => format!("did you mean {}?", plain::line(near)),
            None => "`trunkline list tools` shows what there is".to_owned(),
        };
        self.text = format!("{}; {hint}", self.text);
        self
    }

    /// Says it, and gives the code.
    pub(super) fn leave(self) -> ExitCode {
        if !self.text.is_empty() {
            // Nobody is left to be told if standard error is gone too.
            let _told = writeln!(io::stderr(), "trunkline: {}", self.text).is_ok();
        }
        ExitCode::from(self.code)
    }

    const fn new(code: u8, text: String) -> Self {
        Self { code, text, is_unknown: false }
    }

    fn refused(refusal: &Refusal, url: &str) -> Self {
        let said = plain::line(&refusal.to_string());
        let text = match (refusal.status, &refusal.error) {
            (401, _) => format!(
                "{url} wants to know who asks ({said}): put a token into TRUNKLINE_TOKEN, or name another variable with --bearer-env"
            ),
            (403, _) => format!(
                "{url} does not allow this ({said}): check the token, and that the URL has the server's own name"
            ),
            (404 | 405, None) => {
                format!("there is no MCP endpoint at {url} ({said}): check the path, most often it is /mcp")
            }
            (429 | 503, _) => format!("{url} has too much to do ({said}): try again later"),
            _ => format!("the server refuses: {said}"),
        };
        let is_unknown = refusal.error.as_ref().is_some_and(|error| error.code == code::INVALID_PARAMS);
        Self { code: REFUSED, text, is_unknown }
    }
}

/// Whether one of them may be a slip of the pen for the other: as long, give or take one, with all but two letters in common.
fn alike(one: &str, other: &str) -> bool {
    let mut rest: Vec<char> = other.chars().collect();
    let missing = one.chars().filter(|letter| match rest.iter().position(|candidate| candidate == letter) {
        Some(at) => {
            rest.remove(at);
            false
        }
        None => true,
    });
    missing.count() <= 1 && rest.len() <= 1 && one.len() > 2
}
