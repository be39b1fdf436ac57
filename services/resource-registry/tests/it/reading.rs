//! Lists, reads and completions.

use resource_registry::Template;

use super::*;

#[tokio::test]
async fn files_are_listed_with_what_is_known_of_them() {
    let ground = ground(&[("b.md", "# B"), ("a/x y.json", "{}"), ("README", "hi")], |_| {}).await;
    let page = page(&*ground.port, Kind::Resources, None).await;
    let without_dates: Vec<String> = page
        .items
        .iter()
        .map(|item| {
            let date = item.member("annotations").and_then(|a| a.text("lastModified")).unwrap();
            assert!(date.starts_with("20") && date.ends_with('Z'), "{date}");
            item.as_str().replace(&date, "DATE")
        })
        .collect();
    assert_eq!(
        without_dates,
        [
            r#"{"uri":"file:///docs/README","name":"README","size":2,"annotations":{"lastModified":"DATE"}}"#,
            r#"{"uri":"file:///docs/a/x%20y.json","name":"a/x y.json","mimeType":"application/json","size":2,"annotations":{"lastModified":"DATE"}}"#,
            r#"{"uri":"file:///docs/b.md","name":"b.md","mimeType":"text/markdown","size":3,"annotations":{"lastModified":"DATE"}}"#,
        ]
    );
}

#[tokio::test]
async fn long_lists_come_in_pages_without_gaps() {
    let names: Vec<String> = (0..250).map(|n| format!("{n:03}.md")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let ground = ground(&files, |_| {}).await;
    let expected: Vec<String> = names.iter().map(|name| format!("{PREFIX}{name}")).collect();
    assert_eq!(ground.uris().await, expected);
}

#[tokio::test]
async fn text_and_bytes_are_read() {
    let ground = ground(&[("a/ü.md", "grüß")], |_| {}).await;
    fs::write(ground.path("b.png"), [0x89, b'P', 0xff]).unwrap();
    assert_eq!(
        ground.read("file:///docs/a/%C3%BC.md").await.unwrap().as_str(),
        r#"{"contents":[{"uri":"file:///docs/a/%C3%BC.md","mimeType":"text/markdown","text":"grüß"}]}"#
    );
    assert_eq!(
        ground.read("file:///docs/b.png").await.unwrap().as_str(),
        r#"{"contents":[{"uri":"file:///docs/b.png","mimeType":"image/png","blob":"iVD/"}]}"#
    );
}

#[tokio::test]
async fn every_refusal_looks_the_same() {
    let ground = ground(&[("a.md", "A"), (".env", "SECRET"), ("x.tmp", "SECRET")], |config| {
        config.directories[0].exclude = vec!["*.tmp".into()];
    })
    .await;
    fs::write(ground.top.path().join("outside.md"), "SECRET").unwrap();
    std::os::unix::fs::symlink("../outside.md", ground.path("link.md")).unwrap();
    for uri in [
        "file:///docs/none.md",
        "file:///docs/.env",
        "file:///docs/x.tmp",
        "file:///docs/link.md",
        "file:///docs/../outside.md",
        "file:///docs/%2e%2e/outside.md",
        "file:///docs/..%2foutside.md",
        "file:///docs/a.md%00",
        "file:///docs/",
        "file:///docs",
        "file:///outside.md",
        "file:///etc/passwd",
        "FILE:///docs/a.md",
        "docs/a.md",
        "",
    ] {
        let error = ground.read(uri).await.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (-32602, "resource not found"), "{uri}");
        assert_eq!(error.data.unwrap().text("uri").unwrap(), uri);
    }
}

#[tokio::test]
async fn a_file_that_is_too_large_says_so() {
    let ground = ground(&[("a.md", "12345")], |config| config.directories[0].max_bytes = 4).await;
    let error = ground.read("file:///docs/a.md").await.unwrap_err();
    assert_eq!(error.code, -32603);
    assert_eq!(error.message, "the resource is too large: 5 bytes are more than the 4 that may be read");
    assert_eq!(error.data.unwrap().as_str(), r#"{"reason":"too_large"}"#);
    let listed = page(&*ground.port, Kind::Resources, None).await;
    assert_eq!(listed.items[0].member("size").unwrap().as_str(), "5");
}

#[tokio::test]
async fn the_largest_file_travels_whole() {
    let ground = ground(&[], |config| config.directories[0].max_bytes = 4 << 20).await;
    fs::write(ground.path("big"), vec![0xff; 4 << 20]).unwrap();
    let result = ground.read("file:///docs/big").await.unwrap();
    assert!(result.as_str().len() > (4 << 20) * 4 / 3);
}

#[tokio::test]
async fn reading_many_at_once_is_fine_and_a_pipe_holds_nobody() {
    let ground = ground(&[("a.md", "A")], |_| {}).await;
    let pipe = ground.path("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let reads = (0..200).map(|n| {
        let uri = if n % 2 == 0 { "file:///docs/a.md" } else { "file:///docs/pipe" };
        ground.read(uri)
    });
    let results = soon(futures::future::join_all(reads), "all reads").await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 100);
}

#[tokio::test]
async fn templates_are_listed_and_completed_from_the_files() {
    let files = [("guides/b.md", ""), ("guides/a b.md", ""), ("guides/deep/c.md", ""), ("Notes/b.txt", "")];
    let ground = ground(&files, |config| {
        config.templates.push(Template {
            uri: "file:///docs/{area}/{name}.{kind}".into(),
            name: "page".into(),
            title: Some("A page".into()),
            description: None,
            mime_type: None,
        });
    })
    .await;
    let listed = page(&*ground.port, Kind::Templates, None).await;
    assert_eq!(
        listed.items.iter().map(Json::as_str).collect::<Vec<_>>(),
        [
            r#"{"uriTemplate":"file:///docs/{+path}","name":"docs","description":"A file below file:///docs/"}"#,
            r#"{"uriTemplate":"file:///docs/{area}/{name}.{kind}","name":"page","title":"A page"}"#,
        ]
    );
    let page = "file:///docs/{area}/{name}.{kind}";
    for (template, argument, typed, known, expected) in [
        ("file:///docs/{+path}", "path", "g", "", r#"["guides/a b.md","guides/b.md","guides/deep/c.md"]"#),
        ("file:///docs/{+path}", "path", "guides/d", "", r#"["guides/deep/c.md"]"#),
        (page, "area", "", "", r#"["Notes","guides"]"#),
        (page, "area", "n", "", r#"["Notes"]"#),
        (page, "name", "", r#""area":"guides""#, r#"["a b","b"]"#),
        (page, "name", "b", r#""area":"Notes""#, r#"["b"]"#),
        (page, "kind", "", r#""area":"Notes","name":"b""#, r#"["txt"]"#),
        (page, "kind", "", r#""area":"nowhere""#, "[]"),
    ] {
        let result = complete(&ground, template, argument, typed, known).await.unwrap();
        let values = result.member("completion").and_then(|c| c.member("values")).unwrap();
        assert_eq!(values.as_str(), expected, "{template} {argument} {typed} {known}");
    }
    assert_eq!(complete(&ground, page, "nope", "", "").await.unwrap_err().code, -32602);
    assert_eq!(complete(&ground, "file:///x/{y}", "y", "", "").await.unwrap_err().code, -32602);
}

#[tokio::test]
async fn at_most_a_hundred_values_complete() {
    let names: Vec<String> = (0..120).map(|n| format!("{n:03}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let ground = ground(&files, |_| {}).await;
    let result = complete(&ground, "file:///docs/{+path}", "path", "", "").await.unwrap();
    assert!(result.as_str().ends_with(r#""099"],"total":120,"hasMore":true}}"#), "{result}");
}

async fn complete(
    ground: &Ground,
    template: &str,
    argument: &str,
    typed: &str,
    known: &str,
) -> Result<Json, RpcError> {
    let params = format!(
        r#"{{"ref":{{"type":"ref/resource","uri":"{template}"}},"argument":{{"name":"{argument}","value":"{typed}"}},"context":{{"arguments":{{{known}}}}}}}"#
    );
    ground.port.complete(context(""), Json::trusted(params)).await.unwrap()
}
