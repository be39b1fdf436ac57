//! Dialogues: a line in, the effects out. They are documentation, and each is played and compared.

use crate::{compare, dialogue};

#[test]
fn every_dialogue_goes_as_written() {
    let folder = format!("{}/tests/it/scripts", env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".txt"))
        .collect();
    names.sort();
    assert!(names.len() >= 20, "only {} dialogues", names.len());
    for name in names {
        let path = format!("scripts/{name}");
        let text =
            std::fs::read_to_string(format!("{}/tests/it/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        compare(&path, &dialogue::play(&text));
    }
}
