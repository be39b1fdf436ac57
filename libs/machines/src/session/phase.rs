//! Where a session stands, and the one table of how it gets from there to elsewhere.

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Nothing has been settled.
    Uninitialised,
    /// `initialize` was answered; the client has not shown that it knows.
    Initialising,
    /// The handshake is over; no call is under way.
    Initialised,
    /// At least one call is under way.
    Processing,
    /// The handshake was refused, or the session was lost to another owner.
    Failed,
    /// It is over.
    Terminated,
}

/// What moves a session from phase to phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trigger {
    /// `initialize` came.
    InitializeReceived,
    /// `initialize` cannot be accepted.
    InitializeRefused,
    /// `notifications/initialized` came, or a request that only a client with the answer to `initialize` sends.
    ClientConfirmed,
    /// A call was taken on.
    CallStarted,
    /// The last call under way has ended.
    LastCallEnded,
    /// The client ended the session, or a timeout did.
    SessionEnded,
    /// A commit was refused because another owner is at work, or the store and this owner disagree.
    OwnershipLost,
    /// Nothing refers to the failed session any more.
    CleanedUp,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 6] = [
        Self::Uninitialised,
        Self::Initialising,
        Self::Initialised,
        Self::Processing,
        Self::Failed,
        Self::Terminated,
    ];

    /// Whether the session takes messages.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        match self {
            Self::Uninitialised | Self::Initialising | Self::Initialised | Self::Processing => true,
            Self::Failed | Self::Terminated => false,
        }
    }
}

impl Trigger {
    /// Every trigger.
    pub const ALL: [Self; 8] = [
        Self::InitializeReceived,
        Self::InitializeRefused,
        Self::ClientConfirmed,
        Self::CallStarted,
        Self::LastCallEnded,
        Self::SessionEnded,
        Self::OwnershipLost,
        Self::CleanedUp,
    ];
}

/// The table. `None`: this does not happen in that phase.
#[must_use]
pub const fn next(phase: Phase, trigger: Trigger) -> Option<Phase> {
    match phase {
        Phase::Uninitialised => match trigger {
            Trigger::InitializeReceived => Some(Phase::Initialising),
            Trigger::SessionEnded => Some(Phase::Terminated),
            Trigger::OwnershipLost => Some(Phase::Failed),
            Trigger::InitializeRefused
            | Trigger::ClientConfirmed
            | Trigger::CallStarted
            | Trigger::LastCallEnded
            | Trigger::CleanedUp => None,
        },
        Phase::Initialising => match trigger {
            Trigger::InitializeRefused | Trigger::OwnershipLost => Some(Phase::Failed),
            Trigger::ClientConfirmed => Some(Phase::Initialised),
            Trigger::SessionEnded => Some(Phase::Terminated),
            Trigger::InitializeReceived
            | Trigger::CallStarted
            | Trigger::LastCallEnded
            | Trigger::CleanedUp => None,
        },
        Phase::Initialised => match trigger {
            Trigger::CallStarted => Some(Phase::Processing),
            Trigger::SessionEnded => Some(Phase::Terminated),
            Trigger::OwnershipLost => Some(Phase::Failed),
            Trigger::InitializeReceived
            | Trigger::InitializeRefused
            | Trigger::ClientConfirmed
            | Trigger::LastCallEnded
            | Trigger::CleanedUp => None,
        },
        Phase::Processing => match trigger {
            Trigger::CallStarted => Some(Phase::Processing),
            Trigger::LastCallEnded => Some(Phase::Initialised),
            Trigger::SessionEnded => Some(Phase::Terminated),
            Trigger::OwnershipLost => Some(Phase::Failed),
            Trigger::InitializeReceived
            | Trigger::InitializeRefused
            | Trigger::ClientConfirmed
            | Trigger::CleanedUp => None,
        },
        Phase::Failed => match trigger {
            Trigger::CleanedUp => Some(Phase::Terminated),
            Trigger::InitializeReceived
            | Trigger::InitializeRefused
            | Trigger::ClientConfirmed
            | Trigger::CallStarted
            | Trigger::LastCallEnded
            | Trigger::SessionEnded
            | Trigger::OwnershipLost => None,
        },
        Phase::Terminated => match trigger {
            Trigger::InitializeReceived
            | Trigger::InitializeRefused
            | Trigger::ClientConfirmed
            | Trigger::CallStarted
            | Trigger::LastCallEnded
            | Trigger::SessionEnded
            | Trigger::OwnershipLost
            | Trigger::CleanedUp => None,
        },
    }
}
