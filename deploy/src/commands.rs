//! Commands that read or print a configuration and end: `check`, `format`, `merge`, `schema`, `completion`.

use std::{io::Read, path::Path, process::ExitCode, sync::Arc};

use clap::CommandFactory;
use crosspoint_kernel::plugin;
use crosspoint_schema::{
    json::pretty,
    json_schema::{Described, document},
};

use crate::{
    Fatal,
    assemble::{self, Input},
    cli::{Cli, Completion, Global, Shell},
    files, print, words,
};

/// The configuration that the flags name; `config.json` where they name none. Reads standard input if it is among the
/// files.
pub(crate) fn input(global: Global) -> Result<Input, Fatal> {
    let mut files = global.config;
    if files.is_empty() && global.config_directory.is_empty() {
        files.push("config.json".to_owned());
    }
    let stdin = files.iter().any(|file| file == "stdin").then(|| {
        let mut text = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut text);
        read.map(|_| Arc::from(text))
            .map_err(|error| format!("read config at stdin: {}", words::os(&error)))
    });
    let stdin = stdin.transpose()?;
    Ok(Input { files, directories: global.config_directory, stdin, ..Input::default() })
}

/// Refuses to work with a build whose plugins are not those that it promises.
pub(crate) fn sane_build() -> Result<(), Fatal> {
    crosspoint_plugins::verify().map_err(|why| {
        Fatal::with_code(
            crosspoint_kernel::supervise::EXIT_SOFTWARE as u8,
            format!("this build: {why}"),
        )
    })
}

/// `check`: silent when all is well.
pub(crate) fn check(global: Global) -> Result<ExitCode, Fatal> {
    sane_build()?;
    assemble::check(&input(global)?).map_err(|failure| failure.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// `format`: canonical JSON, one file at a time.
pub(crate) fn format(global: Global, write: bool) -> Result<ExitCode, Fatal> {
    let input = input(global)?;
    let decoded = assemble::decode(&input).map_err(|failure| failure.to_string())?;
    let several = decoded.files.len() > 1;
    for (path, node) in &decoded.files {
        let value =
            assemble::canonical(node, &decoded.cx).map_err(|failure| failure.to_string())?;
        let text = pretty(&value);
        if !write {
            let title =
                if several { format!("{}\n", files::absolute(path)) } else { String::new() };
            print(&format!("{title}{text}\n"))?;
            continue;
        }
        // Standard input is called `stdin`, and a file of that name is what the reference writes then, too.
        if std::fs::read(path).is_ok_and(|before| before == text.as_bytes()) {
            continue;
        }
        files::replace(Path::new(path), &text)?;
        eprintln!("{}", files::absolute(path));
    }
    Ok(ExitCode::SUCCESS)
}

/// `merge`: one canonical file of several.
pub(crate) fn merge(global: Global, output: &Path) -> Result<ExitCode, Fatal> {
    let input = input(global)?;
    let decoded = assemble::decode(&input).map_err(|failure| failure.to_string())?;
    let value =
        assemble::canonical(&decoded.root, &decoded.cx).map_err(|failure| failure.to_string())?;
    files::write_with_parents(output, &pretty(&value))?;
    eprintln!("{}", files::absolute(&output.display().to_string()));
    Ok(ExitCode::SUCCESS)
}

/// `schema`: for editors.
pub(crate) fn schema() -> Result<ExitCode, Fatal> {
    sane_build()?;
    let plugins = plugin::registry().values().map(|plugin| Described {
        kind: plugin.kind,
        type_name: plugin.type_name,
        describe: plugin.schema,
    });
    print(&format!("{:#}\n", document(plugins)))
}

/// `completion`: a script for a shell.
pub(crate) fn completion(args: &Completion) -> Result<ExitCode, Fatal> {
    use clap_complete::{generate, shells};
    let mut command = Cli::command();
    if args.no_descriptions {
        command = without_help(command);
    }
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    match args.shell {
        Shell::Bash => generate(shells::Bash, &mut command, name, &mut script),
        Shell::Fish => generate(shells::Fish, &mut command, name, &mut script),
        Shell::Powershell => generate(shells::PowerShell, &mut command, name, &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut command, name, &mut script),
    }
    crate::write(&script)
}

fn without_help(command: clap::Command) -> clap::Command {
    command
        .about(None::<&str>)
        .long_about(None::<&str>)
        .mut_args(|arg| arg.help(None::<&str>).long_help(None::<&str>))
        .mut_subcommands(without_help)
}
