use std::os::unix::fs::PermissionsExt as _;

use redb::TableDefinition;
use tempfile::TempDir;

use super::*;

/// A folder with a session file in it.
fn made() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sessions.redb");
    drop(open(&path).unwrap());
    (folder, path)
}

/// Why the file is refused, which leaves it as it was.
fn refused(path: &Path) -> Refused {
    let before = fs::read(path).unwrap();
    let refused = open(path).expect_err("is refused");
    assert!(refused.to_string().contains(&path.display().to_string()), "{refused}");
    assert_eq!(judge(path).unwrap_err().to_string(), refused.to_string());
    assert!(fs::read(path).unwrap() == before, "it was changed");
    let beside = fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "something was left beside it");
    refused
}

fn write(database: &Database, work: &dyn Fn(&mut tables::Book<'_>)) {
    let txn = database.begin_write().unwrap();
    let mut book = tables::Book::open(&txn).unwrap();
    work(&mut book);
    drop(book);
    txn.commit().unwrap();
}

#[test]
fn it_is_made_once_for_this_user_alone_and_opened_again() {
    let (folder, path) = made();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    drop(open(&path).unwrap());
    judge(&path).unwrap();
}

#[test]
fn a_file_of_another_program_is_left_alone() {
    let (_folder, path) = made();
    for content in [&b""[..], b"x", b"# not a database\n", &[0; 10_000]] {
        fs::write(&path, content).unwrap();
        assert!(matches!(refused(&path), Refused::Foreign { .. }));
    }
}

#[test]
fn a_database_of_another_program_is_left_alone() {
    let (_folder, path) = made();
    fs::remove_file(&path).unwrap();
    let database = Database::create(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap().insert(1, 1).unwrap();
    txn.commit().unwrap();
    drop(database);
    assert!(matches!(refused(&path), Refused::Foreign { .. }));
}

#[test]
fn a_newer_form_is_left_alone() {
    let (_folder, path) = made();
    fs::remove_file(&path).unwrap();
    fill(&path, FORM + 1).unwrap();
    assert!(matches!(refused(&path), Refused::Newer { .. }));
    assert!(refused(&path).to_string().contains("form 2, this one knows 1"));
}

#[test]
fn a_newer_form_of_the_library_is_left_alone() {
    let (_folder, path) = made();
    let mut content = fs::read(&path).unwrap();
    // Both copies of what is known of the last commit begin with the form.
    for place in [64, 192] {
        assert_eq!(content[place], 3);
        content[place] = 4;
    }
    fs::write(&path, &content).unwrap();
    assert!(matches!(refused(&path), Refused::Newer { .. } | Refused::Damaged { .. }));
}

#[test]
fn a_folder_in_its_place_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sessions.redb");
    fs::create_dir(&path).unwrap();
    let said = open(&path).unwrap_err().to_string();
    assert!(said.contains("cannot be used") && said.contains("directory"), "{said}");
    let nowhere = folder.path().join("not/there/sessions.redb");
    assert!(matches!(open(&nowhere), Err(Refused::Unusable { .. })));
}

#[test]
fn one_process_at_a_time() {
    let (_folder, path) = made();
    let first = open(&path).unwrap();
    assert!(matches!(open(&path), Err(Refused::Busy { .. })));
    assert!(matches!(judge(&path), Err(Refused::Busy { .. })));
    drop(first);
    drop(open(&path).unwrap());
}

#[test]
fn damage_is_found_wherever_it_is() {
    let (folder, path) = made();
    let database = open(&path).unwrap();
    write(&database, &|book| (0..200).for_each(|n| book.stamp(&format!("session {n}"), n, n).unwrap()));
    drop(database);
    let whole = fs::read(&path).unwrap();
    let copy = folder.path().join("sessions.redb");
    let mut convicted = 0;
    for page in 0..whole.len() / 4096 {
        let mut content = whole.clone();
        content[page * 4096 + 11] ^= 0x55;
        content[page * 4096 + 700] ^= 0x55;
        fs::write(&copy, &content).unwrap();
        if let Err(found) = judge(&copy) {
            assert!(matches!(found, Refused::Damaged { .. } | Refused::Newer { .. }), "{found}");
            refused(&copy);
            convicted += 1;
        } else {
            // Free pages, and what is made anew from others.
            fs::write(&copy, &content).unwrap();
            let database = open(&copy).unwrap();
            let mut seen = 0;
            let txn = database.begin_read().unwrap();
            tables::sessions(&txn, |_, version, used| seen += u64::from(version == used)).unwrap();
            assert_eq!(seen, 200, "page {page}");
        }
    }
    assert!(convicted >= 5, "{convicted}");
    for length in [1, 100, 4096, 8192, whole.len() / 2] {
        fs::write(&copy, &whole[..length]).unwrap();
        refused(&copy);
    }
}

#[test]
fn what_sessions_left_behind_is_given_back() {
    let (_folder, path) = made();
    let mut database = open(&path).unwrap();
    let length = || fs::metadata(&path).unwrap().len();
    let large = crate::store::fields::Parts {
        set: vec![("head".to_owned(), "x".repeat(900 << 10))],
        ..Default::default()
    };
    for n in 0..16 {
        write(&database, &|book| book.apply(&format!("session {n}"), &large).unwrap());
    }
    let full = length();
    assert!(full > 14 << 20, "{full}");
    compact(&path, &mut database, 1 << 20);
    assert_eq!(length(), full, "all of it is in use");
    for n in 1..16 {
        write(&database, &|book| book.remove(&format!("session {n}")).unwrap());
    }
    compact(&path, &mut database, 1 << 20);
    assert!(length() < 4 << 20, "{}", length());
    drop(database);
    let database = open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    let rows = tables::Book::open(&txn).unwrap().rows("session 0").unwrap();
    assert_eq!(rows.fields[0].1.len(), 900 << 10);
}
