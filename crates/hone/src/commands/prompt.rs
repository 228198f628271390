//! `hone prompt`: questions answered by prompting, with or without worked examples, in words or by choosing among options.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use hone_data::{Source, load_demonstrations};
use hone_eval::{Accuracy, accuracy};
use hone_generate::OptionMeasure;
use hone_generate::prompting::{AnswerEnd, ExamplePool, Frame, Framer, Question, Selection, example_of};
use hone_pipeline::prompting::{Answered, Chosen, Drawing, Options, Prompting};
use hone_run::Shutdown;
use hone_task::verifier::{Exact, Numeric};
use hone_task::{Normalization, Verifier};
use hone_text::{PromptTemplate, QaExample};
use serde::Serialize;
use serde_json::{Map, json};

use super::shared::{DecodingArguments, RowArguments};
use crate::bulk::{self, Target};
use crate::failure::Failure;
use crate::model::{EngineArguments, LoadedModel, ModelArguments};
use crate::output::{self, Output};
use crate::progress::Progress;

/// Answer questions by prompting: zero-, one- or few-shot, in words or by choosing among options
///
/// A chat model gets examples as earlier turns, a base model as lines of Q: and A:, or both as a template of your own writes
/// them. With options, the answer is the one with the highest log-probability.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    engine: EngineArguments,
    /// One question
    #[arg(
        long,
        conflicts_with = "input",
        required_unless_present = "input",
        allow_hyphen_values = true
    )]
    prompt: Option<String>,
    /// Questions: prompts, or conversations whose reply is taken off, in any format that hone reads
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    #[command(flatten)]
    rows: RowArguments,
    /// Where answers go, one JSON object a line; the same command again goes on where it was stopped
    #[arg(long, value_name = "FILE.jsonl")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    examples: ExampleArguments,
    #[command(flatten)]
    frame: FrameArguments,
    #[command(flatten)]
    options: OptionArguments,
    /// Tell right answers from wrong ones by the rows' column `answer`, and print the accuracy
    #[arg(long = "match", value_enum, conflicts_with = "options")]
    matching: Option<MatchArgument>,
    /// Print the first N prompts exactly as the model gets them, and stop
    #[arg(long, value_name = "N")]
    show: Option<usize>,
    #[command(flatten)]
    decoding: DecodingArguments,
    /// One JSON object a question, and one with a summary; with --out, one about the file
    #[arg(long)]
    json: bool,
}

/// Worked examples.
#[derive(Args)]
struct ExampleArguments {
    /// Worked examples: demonstrations in any format that hone reads
    #[arg(long, value_name = "FILE")]
    examples: Option<PathBuf>,
    /// Examples a question [default: 3 with --examples]
    #[arg(long, value_name = "K", requires = "examples")]
    shots: Option<usize>,
    /// Which examples
    #[arg(long, value_enum, default_value = "fixed", requires = "examples")]
    select: SelectArgument,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SelectArgument {
    /// The first of the file
    Fixed,
    /// Drawn anew for each question, by the seed and its row
    Random,
    /// Those whose questions share the most, and the rarest, character trigrams with the question, the most similar last
    Similar,
}

/// How a question is put.
#[derive(Args)]
struct FrameArguments {
    /// How a question is put [default: chat where the model has a template, else qa]
    #[arg(long, value_enum, conflicts_with = "template")]
    frame: Option<FrameArgument>,
    /// A Jinja template of your own, with `examples` (question, answer), `question`, `messages` and the row's columns
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FrameArgument {
    /// Lines of Q: and A:, for base models
    Qa,
    /// Turns through the chat template
    Chat,
}

/// Options to choose among.
#[derive(Args)]
struct OptionArguments {
    /// Choose among these, such as yes,no,maybe [default: the rows' column `options`, where they have one]
    #[arg(long, value_name = "A,B,..", value_delimiter = ',', allow_hyphen_values = true)]
    options: Vec<String>,
    /// What options are compared by
    #[arg(long, value_enum, default_value = "sum")]
    score: ScoreArgument,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScoreArgument {
    /// The summed log-probability
    Sum,
    /// Its mean a token
    Mean,
    /// Its mean a byte
    Byte,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MatchArgument {
    /// The same text, but for case, punctuation, articles and white space
    Exact,
    /// The same final number: the one after the last ####, else the last
    Number,
}

impl MatchArgument {
    fn verifier(self) -> Box<dyn Verifier> {
        let column = "answer".to_string();
        match self {
            Self::Exact => Box::new(Exact {
                column,
                normalization: Normalization::Squad,
            }),
            Self::Number => Box::new(Numeric {
                column,
                marker: "####".to_string(),
                fallback: true,
            }),
        }
    }
}

impl ScoreArgument {
    fn measure(self) -> OptionMeasure {
        match self {
            Self::Sum => OptionMeasure::Sum,
            Self::Mean => OptionMeasure::Mean,
            Self::Byte => OptionMeasure::Byte,
        }
    }
}

/// Examples a question gets where nothing is said.
const SHOTS: usize = 3;

/// What all answers say.
#[derive(Default)]
struct Summary {
    rows: u64,
    judged: u64,
    right: u64,
    shortened: u64,
}

impl Summary {
    fn add(&mut self, right: Option<bool>, left_out: usize) {
        self.rows += 1;
        self.judged += u64::from(right.is_some());
        self.right += u64::from(right == Some(true));
        self.shortened += u64::from(left_out > 0);
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments, shutdown: &Shutdown) -> Result<()> {
    let questions = questions(arguments)?;
    let (pool, shots) = pool(arguments)?;
    let options = options(arguments, &questions)?;
    let template = template(arguments)?;
    if let Some(count) = arguments.show {
        // Neither weights nor a file of results are needed
        let loaded = arguments.model.load(&arguments.engine.rehearsal()?)?;
        let frame = frame(arguments, &loaded, &pool, template)?;
        let framer = Framer::new(&loaded.tokenizer, &frame);
        return show(
            arguments,
            &loaded,
            (framer, &pool, shots),
            &questions[..count.min(questions.len())],
        );
    }
    let engine = arguments.engine.engine()?;
    let mut target = match &arguments.out {
        None => Target::Stdout(Output::new()),
        Some(out) => bulk::open(out, &plan(arguments, &engine, (questions.len(), shots))?)?,
    };
    let mut summary = Summary::default();
    target.for_each(&mut |line| {
        let left_out = line["left_out"].as_u64().unwrap_or(0);
        summary.add(line["right"].as_bool(), left_out as usize);
    })?;
    if target.is_finished() {
        return finish(target, arguments, &summary, true);
    }
    let loaded = arguments.model.load(&engine)?;
    let frame = frame(arguments, &loaded, &pool, template)?;
    let verifier = arguments.matching.map(MatchArgument::verifier);
    let prompting = Prompting {
        engine: &engine,
        model: &loaded.model,
        tokenizer: &loaded.tokenizer,
        framer: Framer::new(&loaded.tokenizer, &frame),
        pool: &pool,
        shots,
        verifier: verifier.as_deref(),
    };
    let (total, begun) = (questions.len() as u64, target.rows());
    let mut progress = Progress::from("questions", total, begun);
    let mut on_progress = |done: u64, tokens: u64| {
        progress.set(begun + done, tokens);
        !shutdown.requested()
    };
    let rest = (&questions[begun as usize..], begun);
    let place = || {
        arguments
            .input
            .as_ref()
            .map_or_else(|| "--prompt".to_string(), |path| path.display().to_string())
    };
    let as_json = arguments.json || arguments.out.is_some();
    let all = match &options {
        Some(options) => prompting.choose(
            rest,
            (options, arguments.options.score.measure()),
            &mut on_progress,
            &mut |chosen: Chosen| {
                summary.add(chosen.right, chosen.left_out);
                write_choice(&mut target, &chosen, as_json)
            },
        ),
        None => prompting.answer(
            rest,
            &drawing(arguments),
            &mut on_progress,
            &mut |answered: Answered| {
                summary.add(answered.right, answered.left_out);
                write_answer(&mut target, &answered, as_json)
            },
        ),
    };
    drop(progress);
    if !all.with_context(place)? {
        return Err(target.stopped(total, "questions")?);
    }
    finish(target, arguments, &summary, false)
}

fn questions(arguments: &Arguments) -> Result<Vec<Question>> {
    match (&arguments.prompt, &arguments.input) {
        (Some(text), _) => Ok(vec![Question {
            turns: vec![hone_data::Message::user(text.as_str())],
            columns: Map::new(),
        }]),
        (None, Some(path)) => {
            let prompts = arguments.rows.read(path)?;
            Ok(prompts.into_iter().map(Question::from).collect())
        }
        (None, None) => Err(Failure::usage("neither --prompt nor --input").into()),
    }
}

/// The worked examples, and how many of them a question gets.
fn pool(arguments: &Arguments) -> Result<(ExamplePool, usize)> {
    let selection = match arguments.examples.select {
        SelectArgument::Fixed => Selection::Fixed,
        SelectArgument::Random => Selection::Random,
        SelectArgument::Similar => Selection::Similar,
    };
    let Some(path) = &arguments.examples.examples else {
        return Ok((ExamplePool::new(Vec::new(), selection, 0), 0));
    };
    let loaded = load_demonstrations(&Source::new(path))?;
    bulk::tell(path, &loaded.report);
    let count = loaded.items.len();
    let examples: Vec<QaExample> = loaded.items.iter().filter_map(example_of).collect();
    if examples.is_empty() {
        let text = format!("{}: no example of one question and its answer", path.display());
        return Err(Failure::failed(text).into());
    }
    if examples.len() < count {
        let several = count - examples.len();
        output::note(&format!(
            "{}: {several} conversations of several questions left out",
            path.display()
        ));
    }
    let shots = arguments.examples.shots.unwrap_or(SHOTS);
    Ok((
        ExamplePool::new(examples, selection, arguments.decoding.sampling.seed),
        shots,
    ))
}

/// What is chosen among, where something is: the arguments' options, or the rows'.
fn options(arguments: &Arguments, questions: &[Question]) -> Result<Option<Options>> {
    let given = &arguments.options.options;
    if given.len() == 1 {
        return Err(Failure::usage(format!("--options {}: one option is no choice", given[0])).into());
    }
    if let Some(empty) = given.iter().position(|option| option.trim().is_empty()) {
        return Err(Failure::usage(format!("--options: option {empty} is empty; expected text")).into());
    }
    if !given.is_empty() {
        return Ok(Some(Options::Same(given.clone())));
    }
    let column = "options".to_string();
    let has = |question: &Question| question.columns.contains_key(&column);
    Ok(questions.iter().any(has).then_some(Options::Column(column.clone())))
}

fn template(arguments: &Arguments) -> Result<Option<PromptTemplate>> {
    let Some(path) = &arguments.frame.template else {
        return Ok(None);
    };
    let source =
        std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let template = PromptTemplate::new(&source).with_context(|| path.display().to_string())?;
    Ok(Some(template))
}

fn frame(
    arguments: &Arguments,
    loaded: &LoadedModel,
    pool: &ExamplePool,
    template: Option<PromptTemplate>,
) -> Result<Frame> {
    if let Some(template) = template {
        return Ok(Frame::Template(Box::new(template)));
    }
    let default = match loaded.tokenizer.chat_template() {
        Some(_) => FrameArgument::Chat,
        None => FrameArgument::Qa,
    };
    Ok(match arguments.frame.frame.unwrap_or(default) {
        FrameArgument::Qa => Frame::Qa(AnswerEnd::of(pool.examples())),
        FrameArgument::Chat => Frame::Chat(Box::new(loaded.chat()?)),
    })
}

fn drawing(arguments: &Arguments) -> Drawing {
    Drawing {
        parameters: arguments.decoding.sampling.parameters(),
        stop: arguments.decoding.sampling.stop.clone(),
        max_new_tokens: arguments.decoding.sampling.max_new_tokens as usize,
        seed: arguments.decoding.sampling.seed,
        batch: arguments.decoding.batch(),
    }
}

/// What the file's lines depend on.
fn plan(arguments: &Arguments, engine: &hone_compute::Engine, (rows, shots): (usize, usize)) -> Result<bulk::Plan> {
    let mut plan = bulk::Plan::new("prompt", rows as u64, 1);
    plan.model(&arguments.model, engine)?;
    plan.settings.extend(arguments.decoding.sampling.settings());
    plan.set("--prompt", arguments.prompt.as_deref().unwrap_or_default());
    arguments.rows.tell(&mut plan);
    plan.set("--shots", shots);
    plan.set("--select", format!("{:?}", arguments.examples.select).to_lowercase());
    let frame = arguments.frame.frame.map(|frame| format!("{frame:?}").to_lowercase());
    plan.set("--frame", frame.unwrap_or_default());
    plan.set("--options", json!(arguments.options.options));
    let matching = arguments
        .matching
        .map(|matching| format!("{matching:?}").to_lowercase());
    plan.set("--match", matching.unwrap_or_default());
    plan.set("--score", format!("{:?}", arguments.options.score).to_lowercase());
    let files = [
        ("--input", &arguments.input),
        ("--examples", &arguments.examples.examples),
        ("--template", &arguments.frame.template),
    ];
    for (name, path) in files {
        if let Some(path) = path {
            plan.file(name, path)?;
        }
    }
    Ok(plan)
}

/// Prompts as the model gets them.
fn show(
    arguments: &Arguments,
    loaded: &LoadedModel,
    (framer, pool, shots): (Framer<'_>, &ExamplePool, usize),
    questions: &[Question],
) -> Result<()> {
    #[derive(Serialize)]
    struct Shown<'a> {
        prompt: &'a str,
        prompt_ids: &'a [u32],
        shots: usize,
    }
    let mut output = Output::new();
    let mut shortened = 0;
    let context = loaded.model.architecture().context;
    let room = context.saturating_sub(arguments.decoding.sampling.max_new_tokens as usize);
    for (row, question) in questions.iter().enumerate() {
        let examples = pool.pick(question.text(), shots, row as u64);
        let framed = framer
            .fitted(question, &examples, room)
            .with_context(|| format!("row {}", row + 1))?;
        shortened += u64::from(framed.shots < examples.len());
        if arguments.json {
            output.json(&Shown {
                prompt: &framed.text,
                prompt_ids: &framed.ids,
                shots: framed.shots,
            })?;
        } else {
            let (shots, tokens) = (framed.shots, framed.ids.len());
            output.line(&format!(
                "--- {} of {} ({shots} examples, {tokens} tokens)",
                row + 1,
                questions.len()
            ))?;
            output.line(&framed.text)?;
        }
    }
    output.finish()?;
    tell_shortened(shortened, questions.len() as u64);
    Ok(())
}

fn write_answer(target: &mut Target, answered: &Answered, as_json: bool) -> Result<()> {
    if as_json {
        return target.json(answered);
    }
    target.line(&format!(
        "--- {}{}",
        one_line(&answered.question),
        verdict(answered.right)
    ))?;
    target.line(&answered.completion)
}

fn write_choice(target: &mut Target, chosen: &Chosen, as_json: bool) -> Result<()> {
    if as_json {
        return target.json(chosen);
    }
    target.line(&format!("--- {}{}", one_line(&chosen.question), verdict(chosen.right)))?;
    target.line(&chosen.choice)?;
    let each = chosen.options.iter().zip(&chosen.scores).zip(&chosen.logprobs);
    for ((option, score), logprob) in each {
        target.line(&format!(
            "  {score:>10.4}  (log-probability {logprob:.4})  {}",
            one_line(option)
        ))?;
    }
    Ok(())
}

fn verdict(right: Option<bool>) -> &'static str {
    match right {
        Some(true) => " (right)",
        Some(false) => " (wrong)",
        None => "",
    }
}

/// A text on one line, its beginning if it is long.
fn one_line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// What all answers say: how many were right, and how many prompts had to do with fewer examples.
fn finish(mut target: Target, arguments: &Arguments, summary: &Summary, before: bool) -> Result<()> {
    let found = match summary.judged {
        0 => None,
        rows => Some(accuracy(summary.right, rows)?),
    };
    tell_shortened(summary.shortened, summary.rows);
    let as_json = json!({ "rows": summary.rows, "shortened": summary.shortened, "accuracy": found });
    if let Some(found) = &found {
        target.say(&sentence(found), arguments.json)?;
    }
    target.told(arguments.json, before, Some(as_json))
}

/// Says how many of the prompts had to do with fewer examples, and what helps.
fn tell_shortened(rows: u64, all: u64) {
    if rows > 0 {
        output::note(&format!(
            "{rows} of {all} prompts have fewer examples than asked for, so that the answer has room in the context; a lower \
             --max-new-tokens or --shots makes room"
        ));
    }
}

fn sentence(found: &Accuracy) -> String {
    let Accuracy {
        accuracy,
        low,
        high,
        right,
        rows,
    } = found;
    format!("accuracy {accuracy:.4} (95% interval {low:.4} to {high:.4}): {right} of {rows}")
}
