//! A server that plays a script, byte for byte, and remembers what it was sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use mcp::rpc::RpcError;
use mcp::{Json, Method};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use upstream::{Ask, Client, Error, Host, Listener, Options, Question, Speak};

/// What a client sent.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) verb: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A member of the message, as text; dots lead inside.
    pub(crate) fn member(&self, path: &str) -> Option<String> {
        let keys: Vec<&str> = path.split('/').collect();
        mcp::scan::path(&self.body, &keys).map(str::to_owned)
    }
}

/// One answer: a status line with headers, and the body in chunks as they are written.
#[derive(Debug, Clone)]
pub(crate) struct Say {
    head: String,
    chunks: Vec<Vec<u8>>,
    /// Whether the connection stays open after the last chunk.
    hold: bool,
}

impl Say {
    pub(crate) fn status(line: &str) -> Self {
        Self { head: format!("{line}\r\n"), chunks: Vec::new(), hold: false }
    }

    pub(crate) fn json(body: &str) -> Self {
        Self::status("200 OK").header("content-type: application/json").body(body)
    }

    pub(crate) fn error(status: &str, body: &str) -> Self {
        Self::status(status).header("content-type: application/json").body(body)
    }

    pub(crate) fn accepted() -> Self {
        Self::status("202 Accepted")
    }

    pub(crate) fn events(body: &str) -> Self {
        Self::status("200 OK").header("content-type: text/event-stream").body(body)
    }

    pub(crate) fn header(mut self, line: &str) -> Self {
        self.head.push_str(line);
        self.head.push_str("\r\n");
        self
    }

    pub(crate) fn body(mut self, text: &str) -> Self {
        self.chunks = vec![text.as_bytes().to_vec()];
        self
    }

    pub(crate) fn chunks<T: AsRef<[u8]>>(mut self, chunks: impl IntoIterator<Item = T>) -> Self {
        self.chunks = chunks.into_iter().map(|chunk| chunk.as_ref().to_vec()).collect();
        self
    }

    pub(crate) fn hold(mut self) -> Self {
        self.hold = true;
        self
    }
}

/// A discovery result, as 2026-07-28 has it.
pub(crate) const DISCOVERED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],
    "capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}}}}"#;

/// A session of 2025-11-25.
pub(crate) fn initialized() -> Say {
    let body = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}}"#;
    Say::json(body).header("mcp-session-id: s1")
}

/// A result of the first request after the handshake.
pub(crate) fn result(id: u64, result: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}")
}

/// The same as an event.
pub(crate) fn event(message: &str) -> String {
    format!("data: {message}\n\n")
}

/// A running script. It ends with this.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    rest: Arc<Mutex<VecDeque<Say>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Answers requests in the order in which they come.
    pub(crate) async fn start(script: Vec<Say>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let (seen, rest) = (Arc::default(), Arc::new(Mutex::new(VecDeque::from(script))));
        let mut tasks = JoinSet::new();
        let (noted, script) = (Arc::clone(&seen), Arc::clone(&rest));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (noted, script) = (Arc::clone(&noted), Arc::clone(&script));
                connections.spawn(serve(stream, noted, script));
            }
        });
        Self { url, seen, rest, _tasks: tasks }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The last request, and that nothing of the script is left.
    pub(crate) fn last(&self) -> Seen {
        assert!(self.rest.lock().unwrap().is_empty(), "not all of the script was played");
        self.seen().pop().unwrap()
    }

    pub(crate) async fn connect(&self, speak: Speak) -> Result<Client, Error> {
        self.connect_with(speak, |_options| {}).await
    }

    pub(crate) async fn connect_with(
        &self,
        speak: Speak,
        change: impl FnOnce(&mut Options),
    ) -> Result<Client, Error> {
        let mut options = Options::new(self.url.parse().unwrap(), "tester", "7");
        options.speak = speak;
        options.capabilities = Json::trusted(r#"{"elicitation":{}}"#);
        options.limits.probe = Duration::from_secs(20);
        change(&mut options);
        Client::connect(&options, Arc::new(Tasks::default())).await
    }
}

async fn serve(stream: TcpStream, noted: Arc<Mutex<Vec<Seen>>>, script: Arc<Mutex<VecDeque<Say>>>) {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let headers: Vec<(String, String)> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let verb = lines[0].split(' ').next().unwrap_or_default().to_owned();
    noted.lock().unwrap().push(Seen { verb, headers, body: String::from_utf8(body).unwrap() });
    let say = script.lock().unwrap().pop_front();
    let Some(say) = say else { return };
    let head = format!("HTTP/1.1 {}connection: close\r\n\r\n", say.head);
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    for chunk in &say.chunks {
        if stream.write_all(chunk).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    if say.hold {
        // Until the client goes.
        let _gone = stream.read_u8().await;
    }
}

/// The host of tests: the tasks of this runtime.
#[derive(Default)]
pub(crate) struct Tasks(Mutex<JoinSet<()>>);

impl Host for Tasks {
    fn spawn(&self, work: BoxFuture<'static, ()>) {
        self.0.lock().unwrap().spawn(work);
    }

    fn sleep(&self, period: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(period))
    }
}

/// Notes what it hears, and answers every question with the next of its answers.
#[derive(Default)]
pub(crate) struct Ear {
    pub(crate) heard: Mutex<Vec<String>>,
    pub(crate) answers: Mutex<VecDeque<Result<Json, RpcError>>>,
}

impl Ear {
    pub(crate) fn answering(answers: &[&'static str]) -> Self {
        let answers = answers.iter().map(|answer| Ok(Json::trusted(*answer))).collect();
        Self { heard: Mutex::default(), answers: Mutex::new(answers) }
    }

    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    fn note(&self, what: String) {
        self.heard.lock().unwrap().push(what);
    }
}

#[async_trait]
impl Listener for Ear {
    fn progress(&self, params: &Json) {
        self.note(format!("progress {}", params.member("progress").unwrap()));
    }

    fn log(&self, params: &Json) {
        self.note(format!("log {}", params.member("data").unwrap_or_else(Json::empty_object)));
    }

    fn notice(&self, method: &str, _params: Option<&Json>) {
        self.note(method.to_owned());
    }

    async fn answer(&self, question: &Question) -> Result<Json, RpcError> {
        self.note(format!("asked {}", question.method));
        self.answers.lock().unwrap().pop_front().unwrap_or_else(|| Err(RpcError::new(-32601, "no")))
    }
}

/// A call of the tool `t`, as most tests make it.
pub(crate) fn call() -> Ask {
    Ask {
        progress: true,
        ..Ask::new(
            Method::ToolsCall,
            Json::trusted(r#"{"name":"t","arguments":{"a":1}}"#),
            Duration::from_secs(20),
        )
    }
}

pub(crate) async fn ask(client: &Client, ear: &Ear) -> Result<String, Error> {
    client.ask(&call(), ear, std::future::pending()).await.map(|result| result.as_str().to_owned())
}
