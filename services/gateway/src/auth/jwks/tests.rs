use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::*;

const ED: &str =
    r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"KID"}"#;

/// A source that counts, and waits for leave to answer.
struct Counting {
    reads: Arc<AtomicUsize>,
    leave: Arc<Semaphore>,
    answer: Arc<Mutex<Result<String, SourceError>>>,
}

struct Fixture {
    set: Arc<KeySet>,
    reads: Arc<AtomicUsize>,
    leave: Arc<Semaphore>,
    answer: Arc<Mutex<Result<String, SourceError>>>,
}

#[async_trait]
impl Source for Counting {
    async fn read(&self) -> Result<Vec<u8>, SourceError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        drop(self.leave.acquire().await.unwrap());
        self.answer.lock().unwrap().clone().map(String::into_bytes)
    }

    fn pace(&self) -> Pace {
        Pace { pause: Duration::from_secs(10), refresh: Duration::from_secs(300) }
    }
}

fn set_of(kids: &[&str]) -> String {
    let keys: Vec<String> = kids.iter().map(|kid| ED.replace("KID", kid)).collect();
    format!("{{\"keys\":[{}]}}", keys.join(","))
}

fn fixture(answer: Result<String, SourceError>) -> Fixture {
    let reads = Arc::new(AtomicUsize::new(0));
    let leave = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let answer = Arc::new(Mutex::new(answer));
    let source = Counting { reads: reads.clone(), leave: leave.clone(), answer: answer.clone() };
    Fixture { set: KeySet::new(Box::new(source)), reads, leave, answer }
}

impl Fixture {
    async fn knows(&self, kid: &str) -> Result<bool, NoKeys> {
        self.set.find(Some(kid), Algorithm::EdDsa).await.map(|found| !found.keys.is_empty())
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_unknown_keys_a_second_are_one_reading_in_ten_seconds() {
    let it = fixture(Ok(set_of(&["a"])));
    for second in 0..60_u64 {
        for number in 0..1000 {
            assert_eq!(it.knows(&format!("{second}-{number}")).await, Ok(false));
        }
        assert!(it.knows("a").await.unwrap());
        tokio::time::advance(Duration::from_secs(1)).await;
        let most = usize::try_from(second / 10 + 1).unwrap();
        assert!(it.reads() <= most, "{} readings after {second} s", it.reads());
    }
    assert_eq!(it.reads(), 6);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_while_it_is_read_waits_for_that_reading() {
    let it = fixture(Ok(set_of(&["a"])));
    it.leave.forget_permits(Semaphore::MAX_PERMITS);
    let asking = futures::future::join_all((0..1000).map(|_| it.knows("a")));
    let (known, ()) = tokio::join!(asking, async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        it.leave.add_permits(1);
    });
    assert!(known.iter().all(|known| *known == Ok(true)));
    assert_eq!(it.reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_does_not_stop_the_reading() {
    let it = fixture(Ok(set_of(&["a"])));
    it.leave.forget_permits(Semaphore::MAX_PERMITS);
    let given_up = tokio::time::timeout(Duration::from_secs(1), it.knows("a")).await;
    assert!(given_up.is_err());
    it.leave.add_permits(1);
    assert_eq!(it.knows("a").await, Ok(true));
    assert_eq!(it.reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn known_keys_stay_while_the_source_fails_and_go_when_it_says_so() {
    let it = fixture(Ok(set_of(&["a"])));
    assert!(it.knows("a").await.unwrap());
    for broken in [Err(SourceError("down".into())), Ok("<html>".into()), Ok("{\"keys\":{}}".into())] {
        *it.answer.lock().unwrap() = broken;
        tokio::time::advance(Duration::from_secs(301)).await;
        assert_eq!((it.knows("b").await, it.knows("a").await), (Ok(false), Ok(true)));
    }
    *it.answer.lock().unwrap() = Ok(set_of(&["b"]));
    tokio::time::advance(Duration::from_secs(301)).await;
    let before = it.set.generation();
    assert_eq!((it.knows("b").await, it.knows("a").await), (Ok(true), Ok(false)));
    assert_eq!(it.set.generation(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_of_tokens_before_a_set_was_read() {
    let it = fixture(Err(SourceError("down".into())));
    assert_eq!((it.knows("a").await, it.knows("a").await, it.reads()), (Err(NoKeys), Err(NoKeys), 1));
    *it.answer.lock().unwrap() = Ok(set_of(&["a"]));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(it.knows("a").await, Ok(true));
}

#[tokio::test]
async fn a_token_without_a_key_id_needs_a_set_of_one() {
    for (kids, expected) in [(vec!["a"], 1), (vec!["a", "b"], 0)] {
        let it = fixture(Ok(set_of(&kids)));
        assert_eq!(it.set.find(None, Algorithm::EdDsa).await.unwrap().keys.len(), expected);
    }
}

#[test]
fn only_public_keys_for_signatures_are_taken() {
    let n = "A".repeat(342);
    let rsa = format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB"}}"#);
    let coordinate = "A".repeat(43);
    let ec = format!(r#"{{"kty":"EC","crv":"P-256","x":"{coordinate}","y":"{coordinate}"}}"#);
    let taken = |jwk: &str| parse(format!("{{\"keys\":[{jwk}]}}").as_bytes()).unwrap().len();
    for good in [ED, &rsa, &ec, &ED.replace('{', r#"{"use":"sig","key_ops":["verify"],"#)] {
        assert_eq!(taken(good), 1, "{good}");
    }
    for bad in [
        r#"{"kty":"oct","k":"c2VjcmV0"}"#,
        r#"{"kty":"OKP","crv":"X25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
        r#"{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}"#,
        r#"{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}"#,
        r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#,
        r#"{"kid":"x"}"#,
        "1",
        &ED.replace('{', r#"{"use":"enc","#),
        &ED.replace('{', r#"{"key_ops":["sign"],"#),
        &ED.replace('{', r#"{"d":"AA","#),
        &rsa.replace(&n, &"A".repeat(700)),
        &ec.replace("P-256", "P-384"),
    ] {
        assert_eq!(taken(bad), 0, "{bad}");
    }
}
