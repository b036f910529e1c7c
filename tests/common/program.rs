//! The program `floe`, and how a run of it ended: for the tests that meet it as a user does.

#![expect(unreachable_pub, reason = "tests of several files use it")]

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::OnceLock,
    time::SystemTime,
};

use serde_json::Value;

/// The program, built if it is not there or older than its sources.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // target/PROFILE/deps/cli-HASH
        let test = std::env::current_exe().unwrap();
        let profile_dir = test.parent().unwrap().parent().unwrap();
        let program = profile_dir.join("floe");
        let built = fs::metadata(&program).and_then(|metadata| metadata.modified()).ok();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sources = ["protocol/src", "storage/src", "node/src"].map(|dir| root.join(dir));
        let changed = sources.iter().map(|dir| last_change(dir)).max().unwrap();
        if built.is_none_or(|built| built < changed) {
            let profile = match profile_dir.file_name().and_then(OsStr::to_str).unwrap() {
                "debug" => "dev",
                other => other,
            };
            let status = Command::new(env!("CARGO"))
                .args(["build", "-p", "floe-node", "--bin", "floe", "--profile", profile])
                .arg("--target-dir")
                .arg(profile_dir.parent().unwrap())
                .current_dir(root)
                .status();
            assert!(status.unwrap().success(), "the program does not build");
        }
        program
    })
}

fn last_change(path: &Path) -> SystemTime {
    if !path.is_dir() {
        return fs::metadata(path).unwrap().modified().unwrap();
    }
    let entries = fs::read_dir(path).unwrap();
    entries.map(|entry| last_change(&entry.unwrap().path())).max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// How a run of the program ended.
pub struct Run {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Run {
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap().trim().to_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|_| panic!("{}", self.describe()))
    }

    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}", self.describe());
        self
    }

    /// Expects an error object with these values and all four fields.
    pub fn expect_error(self, exit: i32, code: &str, retryable: bool) -> Self {
        let run = self.expect(exit);
        let error = &run.json()["error"];
        assert_eq!(error["code"], code, "{}", run.describe());
        assert_eq!(error["retryable"], retryable, "{}", run.describe());
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
        assert!(error.as_object().unwrap().contains_key("hint"));
        run
    }

    pub fn describe(&self) -> String {
        let stdout = String::from_utf8_lossy(&self.stdout);
        format!("exit {}\nstdout: {stdout:.500}\nstderr: {:.2000}", self.code, self.stderr)
    }
}

/// Waits for a run of the program to end.
pub fn finish(child: Child) -> Run {
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
