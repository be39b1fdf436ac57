//! What the caller's half keeps, and lets go of.

use bytes::Bytes;
use futures::FutureExt as _;

use super::*;
use crate::pb::session as pb;
use crate::session::link::Words;

fn request(shared: &Arc<Shared<Words>>) -> Call<Words> {
    shared.open(pb::up::Kind::Close(pb::CloseRequest::default()), Trace::default()).ok().unwrap()
}

fn said(sayings: &mut Sayings<Words>) -> Option<Option<u64>> {
    sayings.next().now_or_never().map(|up| up.map(|up| up.call))
}

#[test]
fn what_is_given_up_before_it_was_sent_leaves_nothing_behind() {
    let shared = Arc::new(Shared::default());
    let kept = request(&shared);
    for _ in 0..1000 {
        drop(request(&shared));
    }
    assert_eq!(shared.lock().queue.len(), 1);
    assert_eq!(shared.lock().calls.len(), 1);
    let mut sayings = Sayings { shared: shared.clone(), link: 0 };
    assert_eq!(said(&mut sayings), Some(Some(kept.number)));
    drop(kept);
    assert_eq!(said(&mut sayings), Some(Some(1)), "its cancellation");
    assert_eq!(said(&mut sayings), None);
}

#[test]
fn a_link_that_was_lost_says_nothing_that_is_meant_for_the_next() {
    let shared = Arc::new(Shared::default());
    let mut old = Sayings { shared: shared.clone(), link: 0 };
    assert!(said(&mut old).is_none());
    shared.lose(&broken("lost"));
    let call = request(&shared);
    assert_eq!(said(&mut old), Some(None));
    assert_eq!(said(&mut Sayings { shared: shared.clone(), link: 1 }), Some(Some(call.number)));
}

#[test]
fn a_frame_that_is_none_ends_the_call_at_both_ends() {
    let shared = Arc::new(Shared::default());
    let mut sayings = Sayings { shared: shared.clone(), link: 0 };
    let mut call = request(&shared);
    assert_eq!(said(&mut sayings), Some(Some(1)));
    let part = Some(Part { data: Bytes::from(vec![0xff_u8; 3]), last: true });
    shared.hear(Down { part, ..Down::of(1) });
    let up = sayings.next().now_or_never().flatten().unwrap();
    assert!(matches!(up.kind, Some(pb::up::Kind::Cancel(_))), "{up:?}");
    assert!(matches!(call.next().now_or_never(), Some(Some(Err(_)))));
    assert_eq!(call.next().now_or_never(), Some(None));
    drop(call);
    assert_eq!(said(&mut sayings), None);
}

#[test]
fn a_callee_that_offers_no_link_is_not_asked_for_one_at_each_call() {
    let shared = Arc::<Shared<Words>>::default();
    let caller = Caller(shared.clone());
    let mut asked = 0;
    for _ in 0..2 * UNASKED {
        assert!(!caller.is_linked());
        if std::mem::take(&mut shared.lock().wanted) {
            asked += 1;
            shared.lose(&Error::new(Code::Unimplemented, "no such method"));
        }
    }
    assert_eq!(asked, 2);
    shared.lock().phase = Phase::Linked;
    assert!(caller.is_linked());
    shared.lose(&broken("lost"));
    assert!(!caller.is_linked());
}
