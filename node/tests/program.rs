//! The program `floe` without a swarm: what it says about itself.
//!
//! That this package has a test of its own program also makes `cargo test --workspace` build it
//! once, with everything else, for the tests that run it beside real nodes.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::process::{Command, Stdio};

fn floe(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_floe"));
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "floe {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Names of the commands below one, as its help lists them.
fn commands_below(path: &[&str]) -> Vec<String> {
    let help = floe(&[path, &["--help"]].concat());
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let lines = list.lines().take_while(|line| !line.is_empty());
    // Descriptions that go on are indented further.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(String::from).collect()
}

#[test]
fn every_command_has_examples_that_name_it_and_a_manual_page() {
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let below = commands_below(&path);
        let name = [&["floe"], path.as_slice()].concat().join(" ");
        if below.is_empty() {
            let help = floe(&[path.as_slice(), &["--help"]].concat());
            let (_, examples) = help.split_once("\nExamples:\n").unwrap_or_default();
            assert!(examples.contains(&name), "the help of `{name}` shows no example of it");
            seen += 1;
        }
        let page = floe(&[&["man"], path.as_slice()].concat());
        assert!(page.contains(".SH SYNOPSIS"), "`{name}` has no manual page");
        open.extend(below.into_iter().map(|child| {
            path.iter().map(|part| (*part).to_owned()).chain([child]).collect::<Vec<_>>()
        }));
    }
    assert!(seen > 20, "only {seen} commands were found");
}
