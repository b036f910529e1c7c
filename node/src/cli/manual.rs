//! `floe completions` and `floe man`: what shells and `man` are told of the command line.
//!
//! Both are made from the argument types themselves and so never differ from them. They need no
//! setting, so that they work in a package's build.

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use super::{
    Cli,
    exit::{Exit, Failure},
    output::Output,
};

const COMPLETIONS_HELP: &str = "\
Examples:
  floe completions bash > ~/.local/share/bash-completion/completions/floe
  floe completions zsh > ~/.zfunc/_floe
  floe completions fish > ~/.config/fish/completions/floe.fish";

const MAN_HELP: &str = "\
Examples:
  floe man | man -l -
  floe man store > floe-store.1
  floe man node run > floe-node-run.1";

/// Arguments of `floe completions`.
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_HELP)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `floe man`.
#[derive(Debug, Args)]
#[command(after_help = MAN_HELP)]
pub(super) struct ManArgs {
    /// The command to describe [default: floe as a whole]
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs `floe completions`.
pub(super) fn completions(output: &Output, arguments: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "floe", &mut script);
    output.raw(&script)?;
    Ok(Exit::Done)
}

/// Runs `floe man`.
pub(super) fn man(output: &Output, arguments: &ManArgs) -> Result<Exit, Failure> {
    let mut root = Cli::command();
    // Gives commands below their whole names and the options that all of them know.
    root.build();
    let mut command = &root;
    for name in &arguments.command {
        command = subcommand(command, name)?;
    }
    let mut page = Vec::new();
    let source = concat!("floe ", env!("CARGO_PKG_VERSION"));
    let rendered = clap_mangen::Man::new(command.clone()).source(source).render(&mut page);
    rendered.map_err(|error| Failure::io("cannot write the page", &error))?;
    output.raw(&page)?;
    Ok(Exit::Done)
}

fn subcommand<'a>(command: &'a Command, name: &str) -> Result<&'a Command, Failure> {
    command.find_subcommand(name).ok_or_else(|| {
        let message = format!("{} has no command {name:?}", command.get_name());
        Failure::usage("usage", message).hint("see floe --help for the commands")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
