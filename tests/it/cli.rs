//! `call`, `list`, `read` and `get` as people use them: the real binary against a mesh, in both eras.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use api::registry::{Continuation, FrameBody, InputRequired, Kind};
use futures::{StreamExt as _, stream};
use mcp::Json;
use tests::mesh::{Mesh, Topology, binary};
use tests::scripted::{Scripted, bodies, shared};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
const ERAS: [&str; 4] = ["auto", "modern", "older", "2025-06-18"];
const ASK: &str = r#"{"who":{"method":"elicitation/create","params":{"message":"Who is flying?","requestedSchema":{"type":"object","properties":{"name":{"type":"string","title":"Name"}},"required":["name"]}}}}"#;

fn json(text: &'static str) -> Json {
    Json::trusted(text)
}

fn registry() -> Scripted {
    let registry = Scripted::new("r", |_, start| match start.target.as_str() {
        "report" => bodies([
            FrameBody::Progress(json(r#"{"progress":1,"total":2,"message":"half"}"#)),
            FrameBody::Result(json(
                r#"{"content":[{"type":"text","text":"All is well.\nSo far\u001b[31m."},{"type":"image","mimeType":"image/png","data":"aGVsbG8="},
                {"type":"text","text":"{\"rows\": 2}"}],"structuredContent":{"rows":2,"names":["a","b"]}}"#,
            )),
        ]),
        "broken" => bodies([FrameBody::Result(json(
            r#"{"content":[{"type":"text","text":"out of paper"}],"isError":true}"#,
        ))]),
        "never" => stream::iter([FrameBody::Log(json(r#"{"level":"info","data":"begun"}"#))])
            .chain(stream::pending())
            .boxed(),
        "book" => bodies([FrameBody::InputRequired(InputRequired {
            requests: Json::trusted(ASK),
            round: 1,
            expires_unix_ms: u64::MAX,
            continuation: Continuation::Parked,
        })]),
        "a:1" => bodies([FrameBody::Result(json(r##"{"contents":[{"uri":"a:1","text":"# One\n"}]}"##))]),
        "greet" => bodies([FrameBody::Result(json(
            r#"{"messages":[{"role":"user","content":{"type":"text","text":"Greet Ada."}}]}"#,
        ))]),
        _ => {
            let arguments = start.params.member("arguments").unwrap_or_else(Json::empty_object);
            let text = mcp::edit::quote(arguments.as_str());
            bodies([FrameBody::Result(Json::trusted(format!(
                "{{\"content\":[{{\"type\":\"text\",\"text\":{text}}}]}}"
            )))])
        }
    });
    registry.list(
        Kind::Tools,
        [
            r#"{"name":"book","description":"Books a flight","inputSchema":{"type":"object"}}"#,
            r#"{"name":"broken","description":"Fails","inputSchema":{"type":"object"}}"#,
            r#"{"name":"mirror","description":"Says its arguments.\nAll of them.","inputSchema":{"type":"object","properties":{
                "text":{"type":"string","description":"Any text"},"n":{"type":"integer"},"flag":{"type":"boolean"},
                "list":{"type":"array","items":{"type":"number"}},"mode":{"enum":["fast","slow"]}},"required":["text"]}}"#,
            r#"{"name":"never","description":"Does not end","inputSchema":{"type":"object"}}"#,
            r#"{"name":"report","description":"Reports","inputSchema":{"type":"object"}}"#,
        ],
    );
    registry.list(Kind::Resources, [r#"{"uri":"a:1","name":"one","mimeType":"text/markdown","size":6}"#]);
    registry.list(Kind::Prompts, [r#"{"name":"greet","arguments":[{"name":"who","required":true}]}"#]);
    registry
}

fn trunkline(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary("trunkline")?);
    command
        .args(args)
        .env_remove("TRUNKLINE_TOKEN")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.kill_on_drop(true);
    Ok(command)
}

/// Exit code, standard output, standard error.
async fn ended(mut command: Command) -> Result<(Option<i32>, String, String)> {
    let Output { status, stdout, stderr } = timeout(PATIENCE, command.output()).await??;
    Ok((status.code(), String::from_utf8(stdout)?, String::from_utf8(stderr)?))
}

async fn run(args: &[&str]) -> Result<(Option<i32>, String, String)> {
    ended(trunkline(args)?).await
}

async fn mesh() -> Result<(Mesh, String)> {
    let mesh = Mesh::start(Topology::Embedded, vec![shared(registry())]).await?;
    let url = format!("http://{}/mcp", mesh.gateways[0]);
    Ok((mesh, url))
}

fn ok(text: &str) -> (Option<i32>, String, String) {
    (Some(0), text.to_owned(), String::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_shows_what_people_can_read() -> Result<()> {
    let (_mesh, url) = mesh().await?;
    let shown = "All is well.\nSo far\u{fffd}[31m.\n[image, image/png, 5 B; --json prints it as base64]\n{\"rows\": 2}\n{\"rows\": 2, \"names\": [\"a\", \"b\"]}\n";
    for era in ERAS {
        assert_eq!(run(&["call", &url, "report", "--era", era]).await?, ok(shown), "{era}");
    }
    let (code, raw, _) = run(&["call", "--json", &url, "report"]).await?;
    assert_eq!(code, Some(0));
    assert!(raw.contains(r#""structuredContent":{"rows":2,"names":["a","b"]}"#), "{raw}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_have_the_types_of_the_schema() -> Result<()> {
    let (_mesh, url) = mesh().await?;
    let args = [
        "--arg",
        "text=5",
        "--arg",
        "n=5",
        "--arg",
        "flag=true",
        "--arg",
        "list=1",
        "--arg",
        "list=2.5",
        "--arg",
        "mode=fast",
    ];
    for era in ERAS {
        let line = [&["call", &url, "--era", era, "mirror"][..], &args].concat();
        let expected = "{\"text\":\"5\",\"n\":5,\"flag\":true,\"mode\":\"fast\",\"list\":[1,2.5]}\n";
        assert_eq!(run(&line).await?, ok(expected), "{era}");
    }
    assert_eq!(
        run(&["call", &url, "mirror", "--json-args", r#"{"text":1e2}"#]).await?,
        ok("{\"text\":1e2}\n")
    );
    let mut command = trunkline(&["call", &url, "mirror", "--json-args", "-", "--arg", "n=1"])?;
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("no input")?.write_all(br#" {"text":"piped"} "#).await?;
    let output = timeout(PATIENCE, child.wait_with_output()).await??;
    assert_eq!(String::from_utf8(output.stdout)?, "{\"text\":\"piped\",\"n\":1}\n");
    let (code, _, said) = run(&["call", &url, "mirror", "--arg", "n=five"]).await?;
    assert_eq!((code, said.as_str()), (Some(2), "trunkline: --arg n=five: this is to be integer\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_has_its_code_and_says_what_to_do() -> Result<()> {
    let (_mesh, url) = mesh().await?;
    for era in ERAS {
        let (code, out, said) = run(&["call", &url, "broken", "--era", era]).await?;
        assert_eq!((code, out.as_str()), (Some(1), "out of paper\n"));
        assert_eq!(said, "trunkline: the tool reports an error\n");
        let (code, out, said) = run(&["call", &url, "miror", "--arg", "a=1", "--era", era]).await?;
        assert_eq!((code, out.as_str()), (Some(4), ""));
        assert!(
            said.starts_with("trunkline: the server refuses: ") && said.contains("did you mean mirror?"),
            "{said}"
        );
        let (code, _, said) = run(&["read", &url, "a:2", "--era", era]).await?;
        assert!(code == Some(4) && said.contains("refuses"), "{said}");
    }
    let (code, _, said) = run(&["call", "ftp://x/mcp", "t"]).await?;
    assert!(code == Some(2) && said.contains("use the form http://HOST:PORT/mcp"), "{said}");
    let (code, _, said) = run(&["call", &url]).await?;
    assert!(code == Some(2) && said.contains("name the tool after it"), "{said}");
    let (code, _, said) = run(&["call", &url, "no-such-tool"]).await?;
    assert!(code == Some(4) && said.contains("trunkline list tools"), "{said}");
    let (code, _, said) = run(&["list", &url, "hammers"]).await?;
    assert!(code == Some(2) && said.contains("tools"), "{said}");
    let (code, _, said) = run(&["list", &url, "--bearer-env", "NO_SUCH_VARIABLE"]).await?;
    assert!(code == Some(2) && said.contains("NO_SUCH_VARIABLE"), "{said}");
    let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let (code, _, said) = run(&["list", &format!("http://{nobody}/mcp")]).await?;
    assert!(code == Some(3) && said.contains("cannot reach") && said.contains("trunkline up"), "{said}");
    let (code, _, said) = run(&["list", &url.replace("/mcp", "/nothing")]).await?;
    assert!(code == Some(4) && said.contains("no MCP endpoint"), "{said}");
    let (code, _, said) = run(&["call", &url, "never", "--timeout", "1"]).await?;
    assert!(code == Some(3) && said.contains("--timeout"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_read_well() -> Result<()> {
    let (_mesh, url) = mesh().await?;
    let tools = "\
book
    Books a flight
broken
    Fails
mirror
    Says its arguments.
    All of them.
      --arg text=<string>, required: Any text
      --arg n=<integer>
      --arg flag=<boolean>
      --arg list=<array>
      --arg mode=<fast|slow>
never
    Does not end
report
    Reports
";
    for era in ERAS {
        assert_eq!(run(&["list", &url, "tools", "--era", era]).await?, ok(tools), "{era}");
        let (code, all, _) = run(&["list", &url, "--era", era]).await?;
        assert_eq!(code, Some(0));
        for heading in [
            "\ntools\n  book\n",
            "\nresources\n  a:1\n      one, text/markdown, 6 B\n",
            "\nprompts\n  greet\n        --arg who=<text>, required\n",
        ] {
            assert!(all.contains(heading), "{heading}: {all}");
        }
        assert_eq!(run(&["list", &url, "templates", "--era", era]).await?, ok("no templates\n"));
    }
    let (_, raw, _) = run(&["list", &url, "prompts", "--json"]).await?;
    assert_eq!(raw, "[{\"name\":\"greet\",\"arguments\":[{\"name\":\"who\",\"required\":true}]}]\n");
    let (_, raw, _) = run(&["list", &url, "--json"]).await?;
    assert!(raw.starts_with("{\"tools\":[{\"name\":\"book\""), "{raw}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_and_prompts_are_shown() -> Result<()> {
    let (_mesh, url) = mesh().await?;
    for era in ERAS {
        assert_eq!(run(&["read", &url, "a:1", "--era", era]).await?, ok("# One\n"), "{era}");
        let got = run(&["get", &url, "greet", "--arg", "who=Ada", "--era", era]).await?;
        assert_eq!(got, ok("user:\n  Greet Ada.\n"), "{era}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_declined_where_nobody_sits() -> Result<()> {
    for era in ERAS {
        let (_mesh, url) = mesh().await?;
        let (code, out, said) = run(&["call", &url, "book", "--era", era]).await?;
        assert_eq!((code, out.as_str()), (Some(0), "who=Ok({\"action\":\"decline\"})\n"), "{said}");
        assert_eq!(said, "declined, as nobody is at a terminal to answer: Who is flying?\n");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_asked_on_the_terminal() -> Result<()> {
    for era in ["modern", "older"] {
        let (_mesh, url) = mesh().await?;
        let line = format!("{} call {url} book --era {era}", binary("trunkline")?.display());
        // `script` gives it a terminal.
        let mut command = Command::new("script");
        command
            .args(["-qec", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut shown = String::new();
        let mut input = child.stdin.take().context("no input")?;
        let mut output = child.stdout.take().context("no output")?;
        let mut answered = false;
        timeout(PATIENCE, async {
            let mut buffer = [0; 1024];
            loop {
                let read = output.read(&mut buffer).await?;
                shown.push_str(&String::from_utf8_lossy(&buffer[..read]));
                if read == 0 {
                    return anyhow::Ok(());
                }
                if !answered && shown.contains("Name [string]: ") {
                    answered = true;
                    input.write_all(b"Ada\n").await?;
                }
            }
        })
        .await??;
        assert!(shown.contains("The server asks: Who is flying?"), "{shown}");
        assert!(shown.contains(r#"who=Ok({"action":"accept","content":{"name":"Ada"}})"#), "{shown}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_cancels_the_call() -> Result<()> {
    for era in ["modern", "older"] {
        let registry = shared(registry());
        let mesh = Mesh::start(Topology::Embedded, vec![registry.clone()]).await?;
        let url = format!("http://{}/mcp", mesh.gateways[0]);
        let mut child = trunkline(&["call", &url, "never", "--era", era, "--log", "debug"])?.spawn()?;
        let mut said = child.stderr.take().context("no standard error")?;
        let mut text = String::new();
        while !text.contains("info: begun\n") {
            let mut buffer = [0; 256];
            let read = timeout(PATIENCE, said.read(&mut buffer)).await??;
            anyhow::ensure!(read > 0, "it ended: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        let pid = child.id().context("it has ended")?.to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().await?.success());
        assert_eq!(timeout(PATIENCE, child.wait()).await??.code(), Some(130));
        timeout(PATIENCE, registry.cancellation()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_token_comes_from_the_environment() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    for (variable, args) in [("TRUNKLINE_TOKEN", &[][..]), ("MY_TOKEN", &["--bearer-env", "MY_TOKEN"])] {
        let mut command = trunkline(&[&["list", &url, "--header", "X-Team: blue"][..], args].concat())?;
        command.env(variable, "t0p-secret");
        let serve = async {
            let (mut stream, _) = listener.accept().await?;
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await?;
            let refusal = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(refusal.as_bytes()).await?;
            anyhow::Ok(String::from_utf8_lossy(&head[..read]).to_lowercase())
        };
        let (head, ended) = tokio::join!(timeout(PATIENCE, serve), ended(command));
        let head = head??;
        assert!(
            head.contains("authorization: bearer t0p-secret\r\n") && head.contains("x-team: blue\r\n"),
            "{head}"
        );
        let (code, _, said) = ended?;
        assert!(code == Some(4) && said.contains("TRUNKLINE_TOKEN") && !said.contains("t0p"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn shells_get_their_completions() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&["completions", shell]).await?;
        assert!(code == Some(0) && script.contains("trunkline") && script.contains("from-seeds"), "{shell}");
    }
    Ok(())
}
