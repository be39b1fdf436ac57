//! What may be wrong with the model, and the rule that has to notice.

use tests::registry_check::Rule;

macro_rules! faults {
    ($($name:ident => $rule:ident,)+) => {
        /// One thing that is wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Fault {
            $($name,)+
        }

        impl Fault {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The rule it breaks.
            pub(crate) const fn breaks(self) -> Rule {
                match self {
                    $(Self::$name => Rule::$rule,)+
                }
            }
        }
    };
}

faults! {
    // First, because its check takes longest.
    EndingThenOpen => Ending,
    InstanceChanges => Instance,
    RegistryNameIllegal => RegistryNames,
    NamespaceIllegal => Namespaces,
    KindTwice => Kinds,
    WatchSilent => WatchFirst,
    WatchRepeats => WatchQuiet,
    WatchCloses => WatchQuiet,
    WatchMissesChange => WatchChange,
    DigestDiffers => ListDigest,
    PagesDiffer => Paging,
    PagesEndless => Paging,
    ItemsUnstable => Stable,
    ItemTwice => Unique,
    ItemIncomplete => Items,
    ItemNotJson => RawJson,
    NameIllegal => Names,
    CursorIgnored => Cursor,
    CursorUnbound => CursorBound,
    AnyRegistryServed => UnknownRegistry,
    AcceptedMissing => Accepted,
    AcceptedLate => Accepted,
    AcceptedOfAnother => Accepted,
    NumbersGap => Numbers,
    NumbersFromZero => Numbers,
    EndingTwice => Ending,
    EndingThenProgress => Ending,
    EndingMissing => Ending,
    EndingThenError => Ending,
    ResultNotJson => RawJson,
    ResultTwoValues => RawJson,
    ProgressWithToken => Members,
    ProgressBackwards => Members,
    LogUnwanted => Wanted,
    UnknownToolAnswers => UnknownTool,
    UnknownResourceEmpty => UnknownResource,
    UnknownPromptInternal => UnknownPrompt,
    ContentMissing => ToolResult,
    ContentsMissing => ReadResult,
    MessagesMissing => GetResult,
    RunsTwice => Repeat,
    AttachLosesFrames => AttachAgain,
    AttachStartsOver => AttachAgain,
    AttachBeyondRepeats => AttachBeyond,
    AttachUnknownEmpty => AttachUnknown,
    LeavingCancels => Outlives,
    ReleaseKeeps => Release,
    ReleaseOfRunningIgnored => Release,
    ReleaseUnknownFails => ReleaseUnknown,
    OwnerlessKept => Ownerless,
    OwnerlessGoesOn => OwnerlessLeft,
    OwnerlessLeftEarly => OwnerlessLeft,
    CancelUnknownFails => CancelUnknown,
    CancelIgnored => CancelRunning,
    DeadlineIgnored => Deadline,
    StaleStarts => StaleStart,
    StaleAttaches => StaleAttach,
    StaleCancels => StaleOther,
    EpochsShared => EpochScope,
    ResumeStartsOver => Parked,
    ParkedAttachCloses => ParkedAttach,
    IncompleteTaken => Incomplete,
    RoundRunsAgain => RoundOver,
    RoundUnknownTaken => RoundUnknown,
    UndeclaredAsked => Undeclared,
    StateIgnored => Stateless,
    ResumeUnknownEmpty => ResumeUnknown,
    CompletionEmpty => Complete,
    CompletionOfAnything => CompleteUnknown,
    SubscriptionsRefused => Subscribe,
    SubscriptionToAnything => SubscribeUnknown,
    MessagesSmall => Sizes,
    FieldsStrict => UnknownFields,
    DrainSilent => DrainSays,
    DrainTakesCalls => DrainRefuses,
    DrainForgets => DrainServes,
}
