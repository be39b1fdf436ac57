//! Protocol revisions and the two eras they fall into.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A published revision of the protocol, in order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Revision {
    /// HTTP+SSE.
    #[serde(rename = "2024-11-05")]
    V2024_11_05,
    /// Streamable HTTP, batches.
    #[serde(rename = "2025-03-26")]
    V2025_03_26,
    /// Structured results, elicitation, version header.
    #[serde(rename = "2025-06-18")]
    V2025_06_18,
    /// URL elicitation, polling streams.
    #[serde(rename = "2025-11-25")]
    V2025_11_25,
    /// No sessions: every request stands alone.
    #[serde(rename = "2026-07-28")]
    V2026_07_28,
}

/// Whether a client keeps a session or sends requests that stand alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Era {
    /// 2024-11-05 to 2025-11-25.
    Older,
    /// 2026-07-28.
    Modern,
}

impl Revision {
    /// Every revision, oldest first.
    pub const ALL: [Self; 5] =
        [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];

    /// The newest revision a handshake can yield.
    pub const LATEST_OLDER: Self = Self::V2025_11_25;

    /// The newest revision.
    pub const LATEST: Self = Self::V2026_07_28;

    /// The revision with this exact name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == text)
    }

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// Its era.
    #[must_use]
    pub const fn era(self) -> Era {
        match self {
            Self::V2024_11_05 | Self::V2025_03_26 | Self::V2025_06_18 | Self::V2025_11_25 => Era::Older,
            Self::V2026_07_28 => Era::Modern,
        }
    }

    /// What `initialize` is answered with: the requested revision if a handshake can yield it, else the newest that can.
    #[must_use]
    pub fn negotiate(requested: &str) -> Self {
        Self::parse(requested).filter(|r| r.era() == Era::Older).unwrap_or(Self::LATEST_OLDER)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_never_yields_the_modern_revision() {
        let table = [
            ("2024-11-05", Revision::V2024_11_05),
            ("2025-03-26", Revision::V2025_03_26),
            ("2025-06-18", Revision::V2025_06_18),
            ("2025-11-25", Revision::V2025_11_25),
            ("2026-07-28", Revision::V2025_11_25),
            ("2099-01-01", Revision::V2025_11_25),
            ("", Revision::V2025_11_25),
        ];
        for (requested, answered) in table {
            assert_eq!(Revision::negotiate(requested), answered, "{requested}");
        }
    }
}
