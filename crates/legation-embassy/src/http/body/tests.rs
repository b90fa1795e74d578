use std::sync::Arc;
use std::time::Duration;

use hyper::body::Body as _;
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep};

use super::*;

/// A body of single bytes, one every so often.
struct Trickle {
    left: usize,
    every: Duration,
    next: Pin<Box<Sleep>>,
}

impl hyper::body::Body for Trickle {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.next.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.left -= 1;
        self.next = Box::pin(sleep(self.every));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

#[test]
fn a_body_comes_in_the_time_that_its_length_may_take() {
    let limits = Limits {
        body_grace: Duration::from_millis(100),
        body_rate: 10_000,
        ..Limits::default()
    };
    assert_eq!(limits.body_within(5_000), Duration::from_millis(600));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let body = |length: usize, every: u64| {
        let every = Duration::from_millis(every);
        Body::new(Trickle {
            left: length,
            every,
            next: Box::pin(sleep(every)),
        })
    };
    runtime.block_on(async {
        // Never a long pause, and never an end.
        let slow = collect(&limits, body(1_000, 20), 1_000).await.unwrap_err();
        assert!(slow.0.detail.contains("too slowly"), "{slow:?}");
        assert_eq!(collect(&limits, body(50, 0), 50).await.unwrap().len(), 50);
        assert!(collect(&limits, body(49, 0), 50).await.is_err());
        assert!(collect(&limits, body(51, 0), 50).await.is_err());
    });
}

#[test]
fn an_answer_is_leased_until_its_last_part_is_taken() {
    let memory = [
        Arc::new(Semaphore::new(1024)),
        Arc::new(Semaphore::new(2048)),
    ];
    let lease = memory
        .clone()
        .map(|part| part.try_acquire_many_owned(300).unwrap());
    let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    let answer = octets(StatusCode::OK, sent.clone(), Lease(Some(lease)));
    let free = || [memory[0].available_permits(), memory[1].available_permits()];
    // What was asked for too much is given back at once.
    assert_eq!(free(), [1024 - 196, 2048 - 196]);
    let mut body = Box::pin(answer.into_body());
    assert_eq!(body.size_hint().exact(), Some(200_000));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut got = Vec::new();
    while !body.is_end_stream() {
        let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) else {
            panic!("it ended early")
        };
        let data = frame.into_data().unwrap();
        assert!(data.len() <= CHUNK);
        got.extend_from_slice(&data);
        assert_eq!(free(), [1024 - 196, 2048 - 196]);
    }
    assert_eq!(got, sent);
    drop(body);
    assert_eq!(free(), [1024, 2048]);
}
