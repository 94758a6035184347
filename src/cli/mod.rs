//! The command line: what can be asked of the binary, and which file answers.

mod check;
mod demo;
mod echo;
mod explain;
mod operate;
mod secrets;
mod serve;
mod tour;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::app::Before;
use crate::config::env::{Env, Override};
use crate::config::footprint::Footprint;
use crate::config::{self, Inputs, Loaded, Read, dotenv};
use crate::contract::compile;
use crate::contract::source::Located;
use crate::model::entropy::SystemEntropy;
use clap::{CommandFactory, Parser, Subcommand};

/// Prints a line of the answer. `println!` would panic where the reader has seen enough (`| head`); [`run`] ends
/// quietly on the error that this returns from the calling function.
macro_rules! say {
    ($($text:tt)*) => {
        std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($text)*)))?
    };
}
use say;

/// A configuration that cannot be used: `EX_CONFIG` of sysexits.h.
const EX_CONFIG: u8 = 78;

/// Sets what the environment does not, in the working directory.
const DOTENV: &str = ".env";

/// What a shell sees of a program that a closed pipe has ended (128 + SIGPIPE).
const HUNG_UP: u8 = 141;

/// Tollgate: a reverse-proxy authentication gateway.
#[derive(Debug, Parser)]
#[command(version, about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(serve::Arguments),
    /// Try it: certificates, store, a backend that echoes, and the gateway, in one command.
    Demo(demo::Arguments),
    /// Check a configuration: every error with its place and its remedy (exit status 78).
    Check(ConfigFile),
    /// Ask the running gateway what would become of a request, and why (exit status 3: it would be refused).
    Explain(explain::Arguments),
    /// Look at the built-in product contracts.
    #[command(subcommand)]
    Contract(Contract),
    /// List, read and change users.
    #[command(subcommand)]
    Users(operate::Users),
    /// List, read and change organizations.
    #[command(subcommand)]
    Orgs(operate::Orgs),
    /// List and revoke API keys.
    #[command(subcommand)]
    Keys(operate::Keys),
    /// List and end sessions.
    #[command(subcommand)]
    Sessions(operate::Sessions),
    /// Make signing keys and secrets.
    #[command(subcommand)]
    Secrets(secrets::Secrets),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Which configuration.
#[derive(Debug, Clone, clap::Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = "config/gateway.toml",
        env = "TOLLGATE_CONFIG",
        global = true
    )]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Contract {
    /// Name them.
    List,
    /// Print one: the file to copy for a product of your own.
    Show {
        /// Its name, such as `vantage`.
        name: String,
    },
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Check(file) => check::run(&file.config),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Contract(command) => contract(&command),
        Command::Users(command) => operate::run(&command.into()),
        Command::Orgs(command) => operate::run(&command.into()),
        Command::Keys(command) => operate::run(&command.into()),
        Command::Sessions(command) => operate::run(&command.into()),
        Command::Secrets(command) => secrets::run(&command),
        Command::Completions { shell } => completions(shell),
    };
    let outcome = outcome.and_then(|status| {
        std::io::stdout().flush()?;
        Ok(status)
    });
    outcome.unwrap_or_else(|error| {
        let hung_up = |error: &std::io::Error| error.kind() == ErrorKind::BrokenPipe;
        // Only `say!` hands such an error on bare: nobody listens any more.
        if error.downcast_ref().is_some_and(hung_up) {
            return ExitCode::from(HUNG_UP);
        }
        eprintln!("tollgate: {error:#}");
        ExitCode::FAILURE
    })
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "tollgate", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

fn contract(command: &Contract) -> anyhow::Result<ExitCode> {
    match command {
        Contract::List => {
            for name in compile::BUILTIN {
                say!("{name}");
            }
        }
        Contract::Show { name } => std::io::stdout().write_all(compile::show(name)?.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// How a configuration is read for a command: the environment once, the flags over it.
struct Reading {
    env: Result<Env, Located>,
    /// Where the environment came from, beside the process's own.
    dotenv: Footprint,
    flags: Vec<Override>,
    write: bool,
    generation: u64,
    kept: Option<BTreeSet<PathBuf>>,
}

impl Reading {
    /// For a command that starts a gateway: secrets that are to be generated are.
    fn to_serve(flags: Vec<Override>, before: Before) -> Self {
        let Before { generation, kept } = before;
        Self { flags, write: true, generation: generation + 1, kept: Some(kept), ..Self::to_look() }
    }

    /// For a command that only looks.
    fn to_look() -> Self {
        let mut dotenv = Footprint::default();
        // Before it is read: a change in between is seen as one.
        dotenv.note(Path::new(DOTENV));
        Self { env: environment(), dotenv, flags: Vec::new(), write: false, generation: 1, kept: None }
    }

    /// Reads the file, or tells what is wrong.
    fn load(&self, path: &Path) -> Result<Loaded, Vec<Located>> {
        config::load(path, &self.inputs()?)
    }

    /// The same, and from which files.
    fn read(&self, path: &Path) -> Read {
        self.noting(|inputs| config::read(path, inputs))
    }

    /// Reads a text as if it were a file.
    fn read_text(&self, name: &str, text: &str) -> Read {
        self.noting(|inputs| config::read_text(name, text, inputs))
    }

    fn noting(&self, read: impl FnOnce(&Inputs<'_>) -> Read) -> Read {
        let mut all = match self.inputs() {
            Ok(inputs) => read(&inputs),
            Err(errors) => Read { outcome: Err(errors), footprint: Footprint::default() },
        };
        all.footprint.join(&self.dotenv);
        all
    }

    fn inputs(&self) -> Result<Inputs<'_>, Vec<Located>> {
        let env = self.env.as_ref().map_err(|error| vec![error.clone()])?;
        Ok(Inputs {
            env,
            flags: &self.flags,
            entropy: &SystemEntropy,
            write: self.write,
            generation: self.generation,
            kept: self.kept.as_ref(),
        })
    }
}

/// The one place that reads the environment: the process's, and below it `.env` in the working directory.
fn environment() -> Result<Env, Located> {
    let mut env: Env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    dotenv::fill(&mut env, Path::new(DOTENV))?;
    Ok(env)
}
