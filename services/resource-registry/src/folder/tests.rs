use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::CWD;
use tempfile::TempDir;

use super::*;
use crate::config::Directory;

const SECRET: &str = "what must not be seen";

/// A served directory `root` with everything in it that should not get out, beside a directory `outside`.
struct Ground {
    top: TempDir,
    folder: Folder,
}

fn ground() -> Ground {
    let top = tempfile::tempdir().unwrap();
    let (root, outside) = (top.path().join("root"), top.path().join("outside"));
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::create_dir_all(root.join(".git")).unwrap();
    fs::create_dir_all(&outside).unwrap();
    for (path, text) in [
        ("root/a.md", "A"),
        ("root/a b.md", "space"),
        ("root/ü.md", "umlaut"),
        ("root/%2e%2e", "a strange name"),
        ("root/100%.txt", "percent"),
        ("root/sub/b.md", "B"),
        ("root/sub/deep/c.md", "C"),
        ("root/.env", SECRET),
        ("root/.git/config", SECRET),
        ("root/back\\slash", SECRET),
        ("root/new\nline", SECRET),
        ("root/draft.tmp", SECRET),
        ("outside/secret.md", SECRET),
        ("rootless.md", SECRET),
    ] {
        fs::write(top.path().join(path), text).unwrap();
    }
    for (target, link) in [
        ("../outside/secret.md", "link-out.md"),
        ("../outside", "dir-out"),
        ("/", "slash"),
        ("/dev/zero", "zero"),
        ("/proc/self/environ", "environ"),
        ("a.md", "link-in.md"),
        ("sub", "dir-in"),
        (".", "here"),
        ("loop-b", "loop-a"),
        ("loop-a", "loop-b"),
        ("self", "self"),
        ("nowhere", "dangling"),
        (".env", "env.md"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    drop(UnixListener::bind(root.join("socket")).unwrap());
    let directory = Directory { exclude: vec!["*.tmp".into()], max_bytes: 64, ..Directory::default() };
    let folder = Folder { root, rules: Rules::new(&directory).unwrap(), max_bytes: 64, max_files: 100 };
    Ground { top, folder }
}

/// Reads as a client's URI would, with a deadline, because some things in the way would block for ever.
fn read(folder: &Folder, rest: &str) -> Result<String, String> {
    let (sender, receiver) = mpsc::channel();
    let (folder, rest) = (folder.clone(), rest.to_owned());
    std::thread::spawn(move || {
        let read = FilePath::decode(&rest).map_err(|refused| refused.to_string()).and_then(|path| {
            let content = folder.read(&path).map_err(|error| error.to_string())?;
            String::from_utf8(content).map_err(|_| "binary".to_owned())
        });
        sender.send(read)
    });
    receiver.recv_timeout(Duration::from_secs(10)).expect("a read must not block")
}

#[test]
fn what_is_there_is_read() {
    let ground = ground();
    for (rest, expected) in [
        ("a.md", "A"),
        ("%61.md", "A"),
        ("a%20b.md", "space"),
        ("%C3%BC.md", "umlaut"),
        ("%c3%bc.md", "umlaut"),
        ("%252e%252e", "a strange name"),
        ("100%25.txt", "percent"),
        ("sub/b.md", "B"),
        ("sub/deep/c.md", "C"),
    ] {
        assert_eq!(read(&ground.folder, rest).as_deref(), Ok(expected), "{rest}");
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "one table")]
fn nothing_else_is_read() {
    let ground = ground();
    let long_name = "x".repeat(256);
    let long_path = "x/".repeat(2100);
    let deep = "sub/".repeat(40) + "a.md";
    let hostile = [
        // up
        "..",
        "../rootless.md",
        "../outside/secret.md",
        "sub/../../rootless.md",
        "sub/../a.md",
        "./a.md",
        ".",
        "sub/.",
        "sub/..",
        "...",
        "....//a.md",
        "..;/rootless.md",
        // up, encoded once, twice, overlong, mixed, as other characters
        "%2e%2e/rootless.md",
        "%2E%2E/rootless.md",
        ".%2e/rootless.md",
        "%2e/a.md",
        "..%2frootless.md",
        "..%2Frootless.md",
        "%2e%2e%2frootless.md",
        "%252e%252e/rootless.md",
        "%252e%252e%252frootless.md",
        "%c0%ae%c0%ae/rootless.md",
        "%c0%ae%c0%ae%c0%afrootless.md",
        "%e0%80%ae%e0%80%ae/rootless.md",
        "..%c0%afrootless.md",
        "..%255c..%255crootless.md",
        "%uff0e%uff0e/rootless.md",
        "%ef%bc%8e%ef%bc%8e/rootless.md",
        "%e2%80%a5/rootless.md",
        "．．/rootless.md",
        // separators
        "sub%2fb.md",
        "sub%2Fb.md",
        "sub%5cb.md",
        "sub\\b.md",
        "..\\rootless.md",
        "..%5crootless.md",
        "back%5Cslash",
        // absolute
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc/passwd",
        "%2Fetc%2Fpasswd",
        "/a.md",
        "file:///etc/passwd",
        "C:/a.md",
        "C:%5Ca.md",
        // empty names
        "",
        "/",
        "sub/",
        "sub//b.md",
        "a.md/",
        "a.md/b",
        "a.md/.",
        "sub",
        // control characters
        "a.md%00",
        "a.md%00.txt",
        "%00",
        "a%0a.md",
        "new%0Aline",
        "a%0d%0a.md",
        "a%7f.md",
        "a.md\0",
        "a%c2%85.md",
        // not well formed
        "%",
        "%2",
        "%zz",
        "a.md%",
        "%ff",
        "%c3",
        "a.md?x",
        "a.md#x",
        "a b.md",
        "ü.md",
        "a.md%3fx",
        "\u{feff}a.md",
        // hidden
        ".env",
        "%2eenv",
        ".git/config",
        ".git",
        "sub/.env",
        // excluded
        "draft.tmp",
        "draft%2etmp",
        "sub/draft.tmp",
        // links, in, out and around
        "link-out.md",
        "dir-out/secret.md",
        "dir-out",
        "slash/etc/passwd",
        "zero",
        "environ",
        "link-in.md",
        "dir-in/b.md",
        "here/a.md",
        "here/here/a.md",
        "loop-a",
        "loop-a/a.md",
        "self",
        "self/a.md",
        "dangling",
        "env.md",
        // not files
        "pipe",
        "socket",
        "pipe/a.md",
        // other spellings
        "A.MD",
        "a.md ",
        "a.md.",
        "a.md%20",
        "a.md::$DATA",
        "a%CC%88.md",
        // too long, too deep
        &long_name,
        &long_path,
        &deep,
        "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q.md",
    ];
    assert!(hostile.len() >= 100, "{}", hostile.len());
    for rest in hostile {
        let error = read(&ground.folder, rest).expect_err(rest);
        assert!(!error.contains(SECRET));
        assert!(!error.contains(ground.top.path().to_str().unwrap()), "{rest}: {error} tells where we are");
    }
}

#[test]
fn devices_are_not_opened() {
    let folder = Folder { root: "/dev".into(), ..ground().folder };
    for name in ["zero", "null", "tty", "full"] {
        assert_eq!(read(&folder, name), Err("there is no such file".into()), "{name}");
    }
}

#[test]
fn only_what_can_be_read_is_listed_and_in_order() {
    let ground = ground();
    let scan = ground.folder.scan().unwrap();
    let paths: Vec<&str> = scan.files.keys().map(FilePath::as_str).collect();
    assert_eq!(paths, ["%2e%2e", "100%.txt", "a b.md", "a.md", "sub/b.md", "sub/deep/c.md", "ü.md"]);
    for path in scan.files.keys() {
        assert!(ground.folder.read(path).is_ok(), "{path}");
    }
    let root = &ground.folder.root;
    assert_eq!(scan.directories, [root.clone(), root.join("sub"), root.join("sub/deep")].into());
    assert!(!scan.truncated);
}

#[test]
fn a_file_of_the_largest_size_is_read_and_one_byte_more_is_not() {
    let ground = ground();
    fs::write(ground.folder.root.join("full"), "x".repeat(64)).unwrap();
    fs::write(ground.folder.root.join("over"), "x".repeat(65)).unwrap();
    assert_eq!(read(&ground.folder, "full").map(|text| text.len()), Ok(64));
    assert_eq!(read(&ground.folder, "over"), Err("65 bytes are more than the 64 that may be read".into()));
    let scan = ground.folder.scan().unwrap();
    assert_eq!(scan.files[&FilePath::decode("over").unwrap()].size, 65);
}

#[test]
fn a_file_that_says_it_is_empty_is_still_bounded() {
    let proc = Folder { root: "/proc/self".into(), ..ground().folder };
    assert_eq!(read(&proc, "limits"), Err("65 bytes are more than the 64 that may be read".into()));
}

#[test]
fn a_root_may_be_a_link_and_is_followed_when_it_moves() {
    let ground = ground();
    let link = ground.top.path().join("link");
    symlink("root", &link).unwrap();
    let folder = Folder { root: link.clone(), ..ground.folder.clone() };
    assert_eq!(read(&folder, "a.md").as_deref(), Ok("A"));
    fs::remove_file(&link).unwrap();
    assert_eq!(read(&folder, "a.md"), Err("there is no such file".into()));
    symlink("outside", &link).unwrap();
    assert_eq!(read(&folder, "secret.md").as_deref(), Ok(SECRET));
}

#[test]
fn names_that_are_not_utf8_are_left_out() {
    use std::os::unix::ffi::OsStrExt as _;
    let ground = ground();
    let name = std::ffi::OsStr::from_bytes(b"\xff.md");
    if fs::write(ground.folder.root.join(name), "x").is_ok() {
        assert_eq!(ground.folder.scan().unwrap().files.len(), 7);
    }
}

#[test]
fn lists_are_cut_at_their_limit_and_say_so() {
    let ground = ground();
    let folder = Folder { max_files: 2, ..ground.folder.clone() };
    let scan = folder.scan().unwrap();
    assert_eq!((scan.files.len(), scan.truncated), (2, true));
    assert_eq!(scan.files.keys().next().unwrap().as_str(), "%2e%2e");
    assert_eq!(folder.scan().unwrap(), scan);
}

#[test]
fn a_directory_that_may_not_be_entered_costs_only_itself() {
    let ground = ground();
    let sub = ground.folder.root.join("sub");
    fs::set_permissions(&sub, fs::Permissions::from_mode(0o000)).unwrap();
    let listed = ground.folder.scan().map(|scan| scan.files.len());
    fs::set_permissions(&sub, fs::Permissions::from_mode(0o755)).unwrap();
    // A superuser may enter anyway.
    assert!(matches!(listed, Ok(5 | 7)), "{listed:?}");
}

#[test]
fn every_kind_of_change_is_a_difference() {
    let ground = ground();
    let root = &ground.folder.root;
    let before = ground.folder.scan().unwrap();
    assert_eq!(before.differences(&ground.folder.scan().unwrap()).len(), 0);
    fs::write(root.join("new.md"), "x").unwrap();
    fs::remove_file(root.join("a.md")).unwrap();
    fs::write(root.join("sub/b.md"), "longer").unwrap();
    fs::write(root.join("replacement"), "umlaut").unwrap();
    fs::rename(root.join("replacement"), root.join("ü.md")).unwrap();
    let after = ground.folder.scan().unwrap();
    let different: Vec<&str> = before.differences(&after).into_iter().map(FilePath::as_str).collect();
    assert_eq!(different, ["a.md", "new.md", "sub/b.md", "ü.md"]);
}
