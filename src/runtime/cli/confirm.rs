//! Before something is lost: say what, and ask.

use super::exit::{Exit, Failure};
use std::io::{BufRead, IsTerminal, Write};

/// Says what would be lost and has it confirmed: by `--yes`, or by the person at the terminal.
pub fn confirm(what_is_lost: &str, yes: bool) -> Result<(), Failure> {
    eprintln!("{what_is_lost}");
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let message = "not confirmed: there is no terminal to ask at; repeat it with --yes if this is what you want";
        return Err(Failure::new(Exit::NotConfirmed, message));
    }
    eprint!("Go on? Type yes: ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(_) if line.trim() == "yes" => Ok(()),
        _ => Err(Failure::new(Exit::NotConfirmed, "not confirmed: nothing was changed")),
    }
}
