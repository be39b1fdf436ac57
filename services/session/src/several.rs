//! Streams that are listened to at once. Mostly there is one, which needs no set.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::stream::SelectAll;

/// See the module. Yields `None` whenever nothing is left to listen to.
pub(crate) struct Several<S> {
    one: Option<S>,
    /// All others, once there were some.
    more: Option<SelectAll<S>>,
    /// Which of the two is asked first, so that neither keeps the other waiting.
    one_first: bool,
}

impl<S> Default for Several<S> {
    fn default() -> Self {
        Self { one: None, more: None, one_first: true }
    }
}

impl<S: Stream + Unpin> Several<S> {
    pub(crate) fn push(&mut self, stream: S) {
        match &self.one {
            None => self.one = Some(stream),
            Some(_) => self.more.get_or_insert_default().push(stream),
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.one.is_none() && self.more.is_none()
    }

    fn poll_one(&mut self, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let Some(one) = &mut self.one else { return Poll::Ready(None) };
        let next = Pin::new(one).poll_next(cx);
        if let Poll::Ready(None) = next {
            self.one = None;
        }
        next
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let Some(more) = &mut self.more else { return Poll::Ready(None) };
        let next = Pin::new(more).poll_next(cx);
        if let Poll::Ready(None) = next {
            self.more = None;
        }
        next
    }
}

impl<S: Stream + Unpin> Stream for Several<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.one_first = !self.one_first;
        let one_first = self.one_first;
        let first = if one_first { self.poll_one(cx) } else { self.poll_more(cx) };
        if let Poll::Ready(Some(_)) = first {
            return first;
        }
        let second = if one_first { self.poll_more(cx) } else { self.poll_one(cx) };
        match second {
            Poll::Ready(None) if first.is_pending() => Poll::Pending,
            Poll::Ready(_) | Poll::Pending => second,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream::{self, BoxStream};
    use futures::{FutureExt as _, StreamExt as _};

    use super::*;

    #[test]
    fn every_stream_is_heard_to_its_end() {
        for count in 0..5 {
            let mut several: Several<BoxStream<'static, usize>> = Several::default();
            for _ in 0..count {
                several.push(stream::iter(0..3).boxed());
            }
            assert_eq!(several.is_empty(), count == 0);
            let heard: Vec<usize> = several.by_ref().collect().now_or_never().unwrap();
            assert_eq!((heard.len(), heard.iter().sum::<usize>()), (3 * count, 3 * count));
            assert!(several.is_empty(), "and then there is room again");
        }
    }

    #[test]
    fn none_keeps_the_others_waiting() {
        let mut several: Several<BoxStream<'static, usize>> = Several::default();
        for name in 0..3 {
            several.push(stream::repeat(name).boxed());
        }
        let heard: Vec<usize> = several.take(60).collect().now_or_never().unwrap();
        for name in 0..3 {
            assert!(heard.iter().filter(|heard| **heard == name).count() >= 10, "{heard:?}");
        }
    }

    #[test]
    fn what_is_silent_is_waited_for() {
        let mut several: Several<BoxStream<'static, usize>> = Several::default();
        several.push(stream::pending().boxed());
        several.push(stream::iter([1]).boxed());
        assert_eq!(several.next().now_or_never(), Some(Some(1)));
        assert_eq!(several.next().now_or_never(), None);
        assert!(!several.is_empty());
    }
}
