//! Cases: what is kept of finished invocations and for how long, and draining.

use std::time::Duration;

use api::registry::{CatalogEvent, Context, Kind};
use api::{Code, Detail, Error};
use futures::StreamExt as _;

use super::{Subject, call, is, next, owned, ownerless, refusal, rest, soon, text};

impl Subject {
    async fn is_known(&self, context: &Context) -> bool {
        match soon(self.port.attach(context.clone(), 0)).await {
            Ok(mut frames) => {
                !matches!(soon(frames.next()).await, Some(Err(Error { code: Code::NotFound, .. })))
            }
            Err(error) => {
                assert!(is(&error, Code::NotFound), "{error:?}");
                false
            }
        }
    }
}

/// New calls are provably not executed; coming back, answering and cancelling go on; watchers are told.
pub async fn draining_refuses_new_calls_only(subject: Subject) {
    let (running, asking, cancelled) = (owned(), owned(), owned());
    let mut frames = subject.start(&running, "gate").await;
    next(&mut frames).await;
    subject.call(&asking, "ask").await;
    let mut doomed = subject.start(&cancelled, "gate").await;
    next(&mut doomed).await;
    let mut events = soon(subject.port.watch()).await.unwrap();
    for _ in Kind::ALL {
        soon(events.next()).await.unwrap().unwrap();
    }
    subject.control.begin_drain();
    assert_eq!(soon(events.next()).await, Some(Ok(CatalogEvent::NotServing)));
    let new = owned();
    let error = refusal(subject.port.start(new.clone(), call("count", "{}"))).await;
    assert_eq!((error.code, error.detail), (Code::Unavailable, Some(Detail::Draining)));
    assert_eq!(subject.control.runs(&new.invocation), 0);
    let repeated = subject.start(&running, "gate").await;
    soon(subject.port.cancel(cancelled, String::new())).await.unwrap();
    assert_eq!(text(&rest(doomed).await.pop().unwrap().body), "-32603: cancelled");
    let answers = [("name", "{}"), ("age", "{}")];
    assert_eq!(text(&subject.resume(&asking, 1, &answers).await.pop().unwrap().body), "{} and {}");
    subject.control.open_gate();
    for frames in [frames, repeated] {
        assert_eq!(text(&rest(frames).await.pop().unwrap().body), "opened");
    }
    assert_eq!(text(&subject.attach(&running, 1).await[0].body), "opened");
}

/// Released invocations are forgotten: ended ones at once, running ones when they end. Unknown ones do not matter.
pub async fn release_forgets(subject: Subject) {
    let (ended, running, kept) = (owned(), owned(), owned());
    subject.call(&ended, "count").await;
    subject.call(&kept, "count").await;
    let mut frames = subject.start(&running, "gate").await;
    next(&mut frames).await;
    let names = vec![ended.invocation.clone(), running.invocation.clone(), "unknown".into()];
    soon(subject.port.release(owned(), names)).await.unwrap();
    assert!(!subject.is_known(&ended).await);
    assert!(subject.is_known(&kept).await);
    subject.control.open_gate();
    assert_eq!(text(&rest(frames).await.pop().unwrap().body), "opened");
    assert!(!subject.is_known(&running).await);
    let elsewhere = Context { mesh: "other".into(), ..owned() };
    soon(subject.port.release(elsewhere, vec![kept.invocation.clone()])).await.unwrap();
    assert!(subject.is_known(&kept).await, "another mesh's name");
}

/// Not longer, not shorter, counted from the end.
pub async fn finished_invocations_are_kept_five_minutes(subject: Subject) {
    let context = owned();
    let mut frames = subject.start(&context, "gate").await;
    next(&mut frames).await;
    subject.control.advance(Duration::from_secs(200));
    subject.control.open_gate();
    rest(frames).await;
    subject.control.advance(Duration::from_secs(299));
    assert!(subject.is_known(&context).await);
    subject.control.advance(Duration::from_secs(2));
    assert!(!subject.is_known(&context).await);
}

/// The oldest go first. What had to go early is not run again when it is repeated.
pub async fn what_is_kept_is_bounded(subject: Subject) {
    let contexts: Vec<Context> = (0..4).map(|_| owned()).collect();
    let each = subject.control.keep_bytes() / 3;
    let big: &'static str = format!(r#"{{"bytes":{each}}}"#).leak();
    for context in &contexts {
        rest(soon(subject.port.start(context.clone(), call("big", big))).await.unwrap()).await;
    }
    assert!(!subject.is_known(&contexts[0]).await);
    assert!(subject.is_known(&contexts[3]).await);
    let error = refusal(subject.port.start(contexts[0].clone(), call("big", big))).await;
    let detail = Detail::OutcomeUnknown { invocation: contexts[0].invocation.clone() };
    assert_eq!((error.code, error.detail), (Code::OutcomeUnknown, Some(detail)));
    soon(subject.port.release(owned(), vec![contexts[3].invocation.clone()])).await.unwrap();
    rest(soon(subject.port.start(owned(), call("big", big))).await.unwrap()).await;
    assert!(subject.is_known(&contexts[2]).await, "what was released makes room");
}

/// Without an owner nobody comes back for what has ended.
pub async fn ownerless_invocations_are_not_kept(subject: Subject) {
    let context = ownerless();
    let mut frames = subject.start(&context, "gate").await;
    next(&mut frames).await;
    assert!(subject.is_known(&context).await, "while it runs");
    subject.control.open_gate();
    rest(frames).await;
    assert!(!subject.is_known(&context).await);
}
