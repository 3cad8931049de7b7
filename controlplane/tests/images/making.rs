//! Making: retries, cancelling, the queue, deleting.

use std::time::Duration;

use api::v1;
use api::v1::create_image_progress::Event;
use api::v1::image_service_server::ImageService as _;
use fixtures::registry::{Auth, Fault, Rule};
use fixtures::secret::secret;
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::support::{World, asked, image, login, messages, registry};

#[tokio::test]
async fn a_retry_gets_the_first_outcome_and_asks_nobody() {
    let (world, password) = (World::new().await, secret("imaging-retry"));
    let (tenant, registry) = (world.tenant("a").await, registry(Auth::basic("u", &password)));
    let creds = [("USERNAME", "u"), ("PASSWORD", &password), ("A", "1"), ("B", "2"), ("C", "3"), ("D", "4")];
    let with_key = |creds: &[(&str, &str)], key: &str| v1::CreateImageRequest {
        idempotency_key: key.into(),
        ..image(&registry.reference("team/app", "1"), creds)
    };
    // A failure is no outcome: what is mended may be tried under the same key.
    registry.down();
    assert_eq!(world.refused(&tenant, with_key(&creds, "k")).await.code(), Code::Unavailable);
    registry.up();
    let first = world.made(&tenant, with_key(&creds, "k")).await;
    registry.reset_log();
    registry.set_password("u", &secret("imaging-retry-newer"));
    for _ in 0..4 {
        assert_eq!(world.made(&tenant, with_key(&creds, "k")).await, first);
    }
    assert!(registry.log().is_empty(), "{:?}", registry.log());
    let status = world.refused(&tenant, with_key(&login(&secret("imaging-retry-newer")), "k")).await;
    assert_eq!(status.code(), Code::InvalidArgument, "another request under the key: {status:?}");
    // Keys are a workspace's.
    let other = world.tenant("b").await;
    world.made(&other, with_key(&login(&secret("imaging-retry-newer")), "k")).await;
    world.end().await;
}

#[tokio::test]
async fn who_goes_away_leaves_nothing() {
    let (world, password) = (World::new().await, secret("imaging-cancel"));
    let (tenant, registry) = (world.tenant("a").await, registry(Auth::basic("u", &password)));
    let (name, before) = (registry.reference("team/app", "1"), world.rows().await);
    registry.faults().set(Rule::new(Fault::StallBody { after: 1000 }).blobs().after(1));
    let mut stream = world
        .images
        .create_image(asked(&tenant, image(&name, &login(&password))))
        .await
        .unwrap()
        .into_inner();
    while !matches!(stream.next().await.unwrap().unwrap().event, Some(Event::Layer(_))) {}
    assert_eq!(world.builds(), 1);
    drop(stream);
    tokio::time::timeout(Duration::from_secs(30), async {
        while world.builds() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("its directory goes");
    assert_eq!(world.rows().await, before);
    registry.faults().clear();
    world.made(&tenant, image(&name, &login(&password))).await;
    world.end().await;
}

#[tokio::test]
async fn builds_wait_for_each_other() {
    let world = World::with(|options| options.builds = 1).await;
    let (tenant, registry) = (world.tenant("a").await, registry(Auth::None));
    registry.push(&fixtures::images::layers(2), "team/other", "1");
    let stall =
        registry.faults().set(Rule::new(Fault::StallBody { after: 10 }).blobs().path("team/app").after(1));
    let first = image(&registry.reference("team/app", "1"), &[]);
    let mut first = world.images.create_image(asked(&tenant, first)).await.unwrap().into_inner();
    while !matches!(first.next().await.unwrap().unwrap().event, Some(Event::Layer(_))) {}
    let second = image(&registry.reference("team/other", "1"), &[]);
    let mut second = world.images.create_image(asked(&tenant, second)).await.unwrap().into_inner();
    loop {
        let Some(Event::Message(line)) = second.next().await.unwrap().unwrap().event else {
            panic!("it waits")
        };
        if line.contains("waiting for other builds: 0 wait") {
            break;
        }
    }
    registry.faults().remove(&stall);
    let (mut events, mut made) = (Vec::new(), 0);
    let mut both = first.merge(second);
    while let Some(word) = both.next().await {
        match word.unwrap().event.unwrap() {
            Event::Image(_) => made += 1,
            event => events.push(event),
        }
    }
    assert_eq!(made, 2, "{}", messages(&events));
    drop(both);
    world.end().await;
}

#[tokio::test]
async fn listed_and_deleted() {
    let (world, password) = (World::new().await, secret("imaging-list"));
    let (tenant, stranger) = (world.tenant("a").await, world.tenant("b").await);
    let registry = registry(Auth::basic("u", &password));
    let name = registry.reference("team/app", "1");
    for id in ["one", "two", "three"] {
        let request = v1::CreateImageRequest { image_id: id.into(), ..image(&name, &login(&password)) };
        assert_eq!(world.made(&tenant, request).await.image_id, id);
    }
    let list = async |caller, token: String| {
        let request = v1::ListImagesRequest { page_size: 2, page_token: token };
        world.images.list_images(asked(caller, request)).await.unwrap().into_inner()
    };
    let first = list(&tenant, String::new()).await;
    let second = list(&tenant, first.next_page_token.clone()).await;
    let ids: Vec<_> =
        first.images.iter().chain(&second.images).map(|image| image.image_id.as_str()).collect();
    assert_eq!((ids, second.next_page_token.as_str()), (vec!["one", "three", "two"], ""));
    assert!(list(&stranger, String::new()).await.images.is_empty());
    let delete = async |caller, id: &str| {
        let request = v1::DeleteImageRequest { image_id: id.into(), idempotency_key: String::new() };
        world.images.delete_image(asked(caller, request)).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(delete(&stranger, "one").await, Err(Code::NotFound));
    assert_eq!(delete(&tenant, "one").await, Ok(()));
    assert_eq!(delete(&tenant, "one").await, Err(Code::NotFound));
    // Its secret stays: the others use it.
    let two = v1::GetImageRequest { image_id: "two".into() };
    let two = world.images.get_image(asked(&tenant, two)).await.unwrap().into_inner();
    assert_eq!(world.value(&tenant, &two.credential_secret_id).await.1, 1);
    world.end().await;
}
