//! The command line: one file per subcommand, all on the same engine as the window.
//! Exit codes: 0 done, 1 failed, 2 bad usage or bad input, 130 cancelled.

mod allocation;
mod calibrate;
mod capacity;
mod check;
mod compress;
mod convert;
mod demo;
mod diff;
mod evaluate;
mod inspect;
mod output;
mod plan;
mod recipe;
mod removal;
mod search;
mod squeeze;
mod verify;
mod window;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// See inside a neural network's checkpoint, decide layer by layer how to compress it, export what runtimes load.
#[derive(Debug, Parser)]
#[command(name = "lapidary", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// A Hugging Face folder, a .safetensors or .gguf file, or a project (.ron) to open in the window.
    path: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List every tensor with its statistics.
    ///
    /// `kurtosis` is excess kurtosis, m₄/m₂² − 3: 0 for a normal distribution, 3 for a Laplace one. `outliers` is the share of
    /// weights more than 6 standard deviations off their mean.
    Inspect(inspect::Inspect),
    /// Compare two checkpoints of one model, tensor by tensor.
    Diff(diff::Diff),
    /// What every format can hold: distortion against true bits, beside what information theory allows.
    Capacity(capacity::Capacity),
    /// Run text through a model and measure what every layer receives.
    Calibrate(calibrate::Calibrate),
    /// Run a model on a text: perplexity, and how far it is from the original.
    Evaluate(evaluate::Evaluate),
    /// Run a project's plan, export, and prove the result.
    Compress(compress::Compress),
    /// Write a compressed checkpoint for another target, without compressing it again; or a GGUF file with other types.
    Convert(convert::Convert),
    /// Put weight files into fewer bytes that give every bit back.
    Squeeze(squeeze::Squeeze),
    /// Make a dense checkpoint of an archive, or of another compressed checkpoint; or a squeezed folder as it was.
    Unpack(convert::Unpack),
    /// Prove an output that is there already against the checkpoint it was made from.
    Verify(verify::Verify),
    /// Spend a budget of bits or bytes on the layers of a model.
    Plan(plan::Plan),
    /// Spend a budget by trying whole plans on the model, generation by generation; goes on where it was stopped.
    Search(search::Search),
    /// Take blocks and experts out of a model: those that are named, or those that do least on a text.
    Remove(removal::Remove),
    /// Say what is wrong with a project's plan for its target, and mend it.
    Check(check::Check),
    /// List what each runtime and format can hold.
    Targets(check::Targets),
    /// Read and write plans as other tools write them.
    Recipe(recipe::Recipe),
    /// Compress the built-in sample model and open the window on it.
    Demo(demo::Demo),
}

/// Runs the program on the process's own arguments.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(usage) => {
            let code = if usage.use_stderr() { 2 } else { 0 };
            // A closed pipe is the only way this fails, and then there is nobody to tell.
            usage.print().ok();
            return ExitCode::from(code);
        }
    };
    let result = match arguments.command {
        Some(Command::Inspect(command)) => command.run(),
        Some(Command::Diff(command)) => command.run(),
        Some(Command::Capacity(command)) => command.run(),
        Some(Command::Calibrate(command)) => command.run(),
        Some(Command::Evaluate(command)) => command.run(),
        Some(Command::Compress(command)) => command.run(),
        Some(Command::Convert(command)) => command.run(),
        Some(Command::Squeeze(command)) => command.run(),
        Some(Command::Unpack(command)) => command.run(),
        Some(Command::Verify(command)) => command.run(),
        Some(Command::Plan(command)) => command.run(),
        Some(Command::Search(command)) => command.run(),
        Some(Command::Remove(command)) => command.run(),
        Some(Command::Check(command)) => command.run(),
        Some(Command::Targets(command)) => command.run(),
        Some(Command::Recipe(command)) => command.run(),
        Some(Command::Demo(command)) => command.run(),
        None => window::open(arguments.path),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(&error),
    }
}
