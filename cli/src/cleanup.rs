//! `bowline cleanup`: everything that bowlined has made on this node goes.

use std::io::Write;
use std::process::ExitCode;

use daemon::cleanup::{self, CleanupArgs};

/// Cleans up, and says what went.
pub fn run(args: &CleanupArgs) -> ExitCode {
    let mut count = 0;
    let outcome = cleanup::run(args, &mut |sentence| {
        count += 1;
        // A reader who has left does not keep the rest from going.
        let _ = writeln!(std::io::stdout(), "{sentence}");
    });
    match outcome {
        Ok(()) if count == 0 => {
            let _ = writeln!(std::io::stdout(), "nothing of bowline is here");
            ExitCode::SUCCESS
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(failures) => {
            failures.iter().for_each(|failure| eprintln!("bowline: {failure}"));
            ExitCode::FAILURE
        }
    }
}
