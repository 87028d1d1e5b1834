//! Asks git for the commit that is being built, for `--version`, `/health` and the metrics.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    // HEAD moves with a checkout and its log with every commit; both may lie elsewhere (worktrees). A path that
    // is not there would mean a rebuild every time.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && std::path::Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=VOXRELAY_COMMIT={commit}");
}

/// One line from git; `None` without git or outside a repository.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}
