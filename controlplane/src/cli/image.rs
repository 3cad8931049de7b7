//! `controlplane image`.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use api::v1;
use api::v1::create_image_progress::Event;
use credplugin::json::{self, MAX_DOCUMENT, Path as JsonPath};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::args::{ClientArgs, ImageCommand};
use super::client::{Client, again, call, key, pages};
use super::failure::{Failure, printable};
use super::output::{Output, size};
use super::settings::{self, Settings};
use super::show;

/// Characters of a digest by which people tell layers apart.
const SHORT: usize = 12;

/// Does it.
pub(super) async fn run(
    command: ImageCommand,
    client: &ClientArgs,
    settings: &Settings,
    out: Output,
) -> Result<u8, Failure> {
    let client = Client::new(client, settings)?;
    match command {
        ImageCommand::Create { reference, creds_file, creds_env, secrets, id, platform } => {
            let request = v1::CreateImageRequest {
                base_image: reference,
                base_image_creds: credentials(creds_file.as_deref(), &creds_env)?,
                credential_secrets: secrets,
                image_id: id.unwrap_or_default(),
                platform: platform.unwrap_or_default(),
                idempotency_key: key(),
            };
            let image = create(&client, request).await?;
            out.one(&format!("{} {}", image.image_id, image.digest), &show::image(&image))?;
        }
        ImageCommand::Ls => list(&client, out).await?,
        ImageCommand::Get { image_id } => {
            let request = v1::GetImageRequest { image_id };
            let image = again(|| {
                let (mut images, request) = (client.images(), request.clone());
                async move { images.get_image(call(request)).await }
            })
            .await?;
            out.table(&HEADS, &[row(&image)], vec![show::image(&image)])?;
        }
        ImageCommand::Rm { image_id } => {
            let request = v1::DeleteImageRequest { image_id, idempotency_key: key() };
            again(|| {
                let (mut images, request) = (client.images(), request.clone());
                async move { images.delete_image(call(request)).await }
            })
            .await?;
        }
    }
    Ok(0)
}

const HEADS: [&str; 6] = ["ID", "IMAGE", "PLATFORM", "SIZE", "INDEX", "CREDENTIALS"];

fn row(image: &v1::Image) -> Vec<String> {
    let credentials = match (image.credential_secret_name.as_str(), image.credential_secrets.as_slice()) {
        ("", []) => "none".to_owned(),
        ("", names) => names.join(","),
        (name, _) => name.to_owned(),
    };
    vec![
        image.image_id.clone(),
        image.base_image.clone(),
        image.platform.clone(),
        size(image.image_bytes),
        size(image.index_bytes),
        credentials,
    ]
}

async fn list(client: &Client, out: Output) -> Result<(), Failure> {
    let all = pages(|page_token| {
        let client = client.clone();
        async move {
            let request = v1::ListImagesRequest { page_size: 0, page_token };
            let page = again(|| {
                let (mut images, request) = (client.images(), request.clone());
                async move { images.list_images(call(request)).await }
            })
            .await?;
            Ok((page.images, page.next_page_token))
        }
    })
    .await?;
    let rows: Vec<_> = all.iter().map(row).collect();
    Ok(out.table(&HEADS, &rows, all.iter().map(show::image).collect())?)
}

/// Credentials by key, from a file and from variables that the caller has named.
fn credentials(file: Option<&Path>, names: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut found = BTreeMap::new();
    if let Some(path) = file {
        let bytes = settings::file(path, u64::try_from(MAX_DOCUMENT).unwrap_or(u64::MAX))?;
        let wrong =
            |error: credplugin::Error| Failure::Data(format!("{}: {}", path.display(), error.message));
        let root = JsonPath::root("");
        let members = json::parse(&bytes, MAX_DOCUMENT, "")
            .and_then(|value| value.into_object(&root))
            .map_err(wrong)?;
        for (name, value) in members {
            let value = value.into_string(&root.key(&name)).map_err(wrong)?;
            found.insert(name.to_string(), value.to_string());
        }
    }
    for name in names {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| Failure::Data(format!("{name} not found or empty")))?;
        found.insert(name.clone(), value);
    }
    Ok(found)
}

/// Makes an image and shows how far it is.
async fn create(client: &Client, request: v1::CreateImageRequest) -> Result<v1::Image, Failure> {
    let mut events = client.images().create_image(request).await?.into_inner();
    let mut progress = Progress::new();
    while let Some(event) = events.message().await? {
        match event.event {
            Some(Event::Message(text)) => progress.say(&text),
            Some(Event::Layer(layer)) => progress.layer(&layer),
            Some(Event::Image(image)) => return Ok(image),
            None => {}
        }
    }
    Err(tonic::Status::unavailable("the answer ended before the image").into())
}

/// Bars on a terminal; lines elsewhere.
struct Progress {
    bars: Option<(MultiProgress, HashMap<String, ProgressBar>)>,
}

impl Progress {
    fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(|| (MultiProgress::new(), HashMap::new())) }
    }

    fn say(&self, text: &str) {
        let text = printable(text);
        // Progress that nobody can read is no reason to fail.
        let _ = match &self.bars {
            Some((all, _)) => all.println(text),
            None => writeln!(std::io::stderr(), "{text}"),
        };
    }

    fn layer(&mut self, layer: &v1::LayerProgress) {
        let Some((all, bars)) = &mut self.bars else { return };
        let bar = bars.entry(layer.digest.clone()).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(layer.total_bytes));
            let template =
                "{prefix}  {bar:30}  {bytes:>10} / {total_bytes:<10}  {bytes_per_sec:>12}  {eta:>4}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            let hex = layer.digest.split_once(':').map_or(layer.digest.as_str(), |(_, hex)| hex);
            bar.set_prefix(printable(&hex.chars().take(SHORT).collect::<String>()));
            bar
        });
        bar.set_length(layer.total_bytes);
        bar.set_position(layer.read_bytes);
        if layer.read_bytes >= layer.total_bytes {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((all, _)) = &self.bars {
            // An error's sentence must not stand between half bars. A terminal that is gone cannot be cleared.
            let _ = all.clear();
        }
    }
}
