//! `hone dashboard`: all runs of a folder, live, in a browser.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use hone_run::Shutdown;
use hone_serve::{Bounds, Dashboard, DashboardOptions, read_token};

use crate::failure::Failure;
use crate::output;
use crate::reach::{link_of, say_how_others_come};

/// Watch all runs of a folder in a browser: curves, samples, differences, and where to look
///
/// Pages: / lists the runs, /run/NAME is one, /run/NAME/samples its samples, /compare?runs=A,B puts several over each other;
/// each is JSON as well, with format=json. Runs are read, never written. Ends at Ctrl-C or SIGTERM.
#[derive(Args)]
pub struct Arguments {
    /// The folder in which runs are, at any depth; or one run
    #[arg(value_name = "RUNS_DIR")]
    folder: PathBuf,
    /// The address to listen on; another than this machine's own needs a token
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 takes a free one
    #[arg(long, default_value_t = 8090)]
    port: u16,
    /// A file with a token of at least 16 characters, which is entered in the browser. May be given several times
    #[arg(long, value_name = "FILE")]
    token: Vec<PathBuf>,
    /// Another name that browsers know this server by, as behind a proxy. May be given several times
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// KL to the starting policy, in nats a response, above which a look is asked for
    #[arg(long, value_name = "NATS", default_value_t = Bounds::default().kl)]
    kl_bound: f64,
}

/// Runs the command.
pub fn run(arguments: &Arguments, shutdown: &Shutdown) -> Result<()> {
    if !(arguments.kl_bound.is_finite() && arguments.kl_bound > 0.0) {
        let text = format!("--kl-bound is {}; expected a number above 0", arguments.kl_bound);
        return Err(Failure::usage(text).into());
    }
    let tokens = arguments.token.iter().map(|path| read_token(path));
    let options = DashboardOptions {
        host: arguments.host.clone(),
        port: arguments.port,
        tokens: tokens.collect::<Result<_, _>>()?,
        names: arguments.allow_host.clone(),
        bounds: Bounds { kl: arguments.kl_bound },
        ..DashboardOptions::default()
    };
    let dashboard = Dashboard::bind(&arguments.folder, &options)?;
    let folder = arguments.folder.display();
    output::note(&format!(
        "runs below {folder} on http://{}",
        link_of(dashboard.address())
    ));
    say_how_others_come(dashboard.address(), "--allow-host NAME");
    if options.tokens.is_empty() {
        output::note("without a token: whoever can use this machine can see them");
    }
    dashboard.run(&|| shutdown.requested())?;
    output::note("stopped");
    Ok(())
}
