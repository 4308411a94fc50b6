#include "node-agent/update/delta_fetcher.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

#include "shared/base/log.h"
#include "shared/base/untrusted_files.h"
#include "shared/crypto/hash.h"
#include "shared/delta/apply_delta.h"

namespace sealift::agent {

namespace fs = std::filesystem;

struct DeltaFetcher::Plan {
  Sha256Digest image;
  std::uint64_t size = 0;
  Way way = Way::kChoose;
  std::optional<delta::ContentName> list;
  delta::ImageContent content;
  delta::Seeds seeds;
  std::map<Sha256Digest, fs::path> seed_files;
  std::optional<delta::ContentName> delta;
  fs::path source;
  delta::ImageIndex index;
  std::vector<delta::ObjectName> objects;
  std::map<Sha256Digest, fs::path> object_files;
  std::size_t next_object = 0;
  // Bytes of this way: those there, and all.
  std::uint64_t have = 0;
  std::uint64_t total = 0;
};

namespace {

constexpr std::uint64_t kMaxListBytes = delta::kMaxContentListBytes;

bool IsLocal(const Status& status) {
  const Reason reason = ReasonOf(status);
  return reason == Reason::kDiskFull || reason == Reason::kStateIo || reason == Reason::kFileUnwritable;
}

// What was hashed and what is parsed are two reads of a partition that is not trusted.
Result<Bytes> ReadVerified(const fs::path& file, const delta::ContentName& name, std::uint64_t max_bytes) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadRegularTextFile(file, max_bytes));
  if (Sha256(AsBytes(text)) == name.digest) return ToBytes(text);
  return MakeError(Code::kUnavailable, Reason::kContentDigestMismatch,
                   fmt::format("read '{}': it changed after it was verified", file.string()));
}

Result<delta::ImageIndex> UnpackAndParse(ByteView bytes) {
  Bytes raw;
  SEALIFT_RETURN_IF_ERROR(RunConfined(
      {}, OkStatus,
      [bytes](const ConfinedSink& sink) -> Status {
        SEALIFT_ASSIGN_OR_RETURN(const Bytes unpacked, delta::UnpackImageIndex(bytes));
        return sink(unpacked);
      },
      [&raw](ByteView piece) -> Status {
        if (piece.size() > delta::kMaxIndexBytes - raw.size()) {
          return MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid, "unpack index: it is too large");
        }
        Append(raw, piece);
        return OkStatus();
      }));
  return delta::ParseUnpackedIndex(raw);
}

}  // namespace

DeltaFetcher::DeltaFetcher(ImageFetcher& whole, ImageFetcher& parts, DeltaFetcherOptions options)
    : whole_(whole), parts_(parts), options_(std::move(options)) {}
DeltaFetcher::~DeltaFetcher() = default;

FetchProgress DeltaFetcher::Underway(const Plan& plan) {
  FetchProgress progress;
  progress.have = plan.have;
  progress.size = plan.total;
  return progress;
}

void DeltaFetcher::NextWay(Plan& plan, const Status& why) const {
  const Way before = plan.way;
  plan.way = before == Way::kDelta && plan.content.index ? Way::kIndex : Way::kWhole;
  plan.have = 0;
  plan.total = plan.size;
  log::Warning(
      plan.way == Way::kIndex ? "no delta for this image; fetching its parts" : "fetching the whole image",
      {{"image", plan.image.hex().substr(0, 12)}, {"error", Describe(why)}});
}

Result<FetchProgress> DeltaFetcher::FetchSome(const Sha256Digest& digest, std::uint64_t size) {
  std::error_code error;
  const fs::path file = options_.directory / digest.hex();
  const bool begun = fs::exists(file, error) || fs::exists(file.string() + ".part", error);
  if (!plan_ || plan_->image != digest) {
    const auto list = begun ? std::nullopt : options_.content_list(digest);
    if (!list || list->size > kMaxListBytes) return whole_.FetchSome(digest, size);
    plan_ = std::make_unique<Plan>();
    plan_->image = digest;
    plan_->size = size;
    plan_->list = list;
    plan_->total = size;
  }
  if (begun || plan_->way == Way::kWhole) {
    auto progress = whole_.FetchSome(digest, size);
    if (!progress.ok() || !progress->complete) return progress;
    plan_.reset();
    SEALIFT_RETURN_IF_ERROR(parts_.Discard(nullptr));
    return progress;
  }
  auto progress = Step(*plan_);
  // A digest that differs here is that of a part: the source's fault, or the partition's.
  if (progress.ok() || IsLocal(progress.status())) return progress;
  NextWay(*plan_, progress.status());
  return Underway(*plan_);
}

Status DeltaFetcher::Discard(const Sha256Digest* keep) {
  plan_.reset();
  SEALIFT_RETURN_IF_ERROR(parts_.Discard(nullptr));
  return whole_.Discard(keep);
}

Result<FetchProgress> DeltaFetcher::Step(Plan& plan) {
  switch (plan.way) {
    case Way::kChoose:
      return Choose(plan);
    case Way::kDelta:
      return FetchDelta(plan);
    case Way::kIndex:
      return FetchIndex(plan);
    case Way::kObjects:
      return FetchObjects(plan);
    case Way::kWhole:
      break;
  }
  return whole_.FetchSome(plan.image, plan.size);
}

Result<std::optional<FetchProgress>> DeltaFetcher::FetchPart(Plan& plan, const delta::ContentName& name) {
  auto progress = parts_.FetchSome(name.digest, name.size);
  if (!progress.ok()) {
    if (IsLocal(progress.status())) return progress.status();
    NextWay(plan, progress.status());
    return std::nullopt;
  }
  if (progress->source.code() == Code::kNotFound) {
    NextWay(plan, progress->source);
    return std::nullopt;
  }
  return std::optional(*std::move(progress));
}

Result<FetchProgress> DeltaFetcher::Choose(Plan& plan) {
  SEALIFT_ASSIGN_OR_RETURN(const auto part, FetchPart(plan, *plan.list));
  if (!part) return Underway(plan);
  FetchProgress progress = Underway(plan);
  progress.source = part->source;
  if (!part->complete) return progress;
  SEALIFT_ASSIGN_OR_RETURN(const Bytes text, ReadVerified(part->file, *plan.list, kMaxListBytes));
  SEALIFT_ASSIGN_OR_RETURN(const delta::ContentList list, delta::ParseContentList(AsText(text)));
  const auto found = list.images.find(plan.image);
  if (found != list.images.end()) plan.content = found->second;
  for (const fs::path& seed : options_.seeds()) {
    // One that cannot be read is none.
    const Result<Sha256Digest> digest = plan.seeds.Add(seed);
    if (digest.ok()) plan.seed_files.try_emplace(*digest, seed);
  }
  for (const auto& [from, name] : plan.content.deltas) {
    const auto source = plan.seed_files.find(from);
    if (source == plan.seed_files.end() || name.size >= plan.size) continue;
    if (plan.delta && plan.delta->size <= name.size) continue;
    plan.delta = name;
    plan.source = source->second;
  }
  plan.way = plan.delta ? Way::kDelta : plan.content.index ? Way::kIndex : Way::kWhole;
  if (plan.delta) plan.total = plan.delta->size;
  return Underway(plan);
}

Result<FetchProgress> DeltaFetcher::FetchDelta(Plan& plan) {
  SEALIFT_ASSIGN_OR_RETURN(const auto part, FetchPart(plan, *plan.delta));
  if (!part) return Underway(plan);
  plan.have = part->have;
  FetchProgress progress = Underway(plan);
  progress.source = part->source;
  if (!part->complete) return progress;
  SEALIFT_ASSIGN_OR_RETURN(const delta::OpenFile file, delta::OpenFile::Open(part->file));
  SEALIFT_ASSIGN_OR_RETURN(const delta::OpenFile source, delta::OpenFile::Open(plan.source));
  SEALIFT_RETURN_IF_ERROR(
      Make(plan, {.keep = {file.descriptor(), source.descriptor()}}, OkStatus, [&](const delta::Sink& sink) {
        return delta::ApplyDelta(file, source, {.work_folder = options_.directory, .progress = {}}, sink);
      }));
  return Underway(plan);
}

Result<FetchProgress> DeltaFetcher::FetchIndex(Plan& plan) {
  SEALIFT_ASSIGN_OR_RETURN(const auto part, FetchPart(plan, *plan.content.index));
  if (!part) return Underway(plan);
  FetchProgress progress = Underway(plan);
  progress.source = part->source;
  if (!part->complete) return progress;
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes,
                           ReadVerified(part->file, *plan.content.index, delta::kMaxIndexBytes));
  SEALIFT_ASSIGN_OR_RETURN(plan.index, UnpackAndParse(bytes));
  SEALIFT_ASSIGN_OR_RETURN(plan.objects, MissingObjects(plan.index, plan.seeds));
  plan.total = 0;
  for (const delta::ObjectName& object : plan.objects) plan.total += object.size;
  if (plan.index.digest != plan.image || plan.index.size != plan.size || plan.total >= plan.size) {
    NextWay(plan, MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid,
                            "the index gains nothing or is of another image"));
    return Underway(plan);
  }
  plan.way = Way::kObjects;
  plan.next_object = 0;
  plan.have = 0;
  return Underway(plan);
}

Result<FetchProgress> DeltaFetcher::FetchObjects(Plan& plan) {
  if (plan.next_object < plan.objects.size()) {
    const delta::ObjectName& object = plan.objects[plan.next_object];
    SEALIFT_ASSIGN_OR_RETURN(const auto part,
                             FetchPart(plan, {.digest = object.digest, .size = object.size}));
    if (!part) return Underway(plan);
    FetchProgress progress = Underway(plan);
    progress.source = part->source;
    if (!part->complete) return progress;
    plan.have += object.size;
    plan.object_files[object.digest] = part->file;
    ++plan.next_object;
    return Underway(plan);
  }
  // Opened in the child: there may be more than this process may have open.
  std::map<Sha256Digest, delta::OpenFile> objects;
  const auto open = [&]() -> Status {
    for (const auto& [digest, path] : plan.object_files) {
      SEALIFT_ASSIGN_OR_RETURN(delta::OpenFile file, delta::OpenFile::Open(path));
      objects.emplace(digest, std::move(file));
    }
    return OkStatus();
  };
  SEALIFT_RETURN_IF_ERROR(Make(plan, {.keep = plan.seeds.Descriptors()}, open, [&](const delta::Sink& sink) {
    return AssembleImage(
        plan.index, plan.seeds,
        [&objects](const Sha256Digest& digest) -> const delta::OpenFile& { return objects.at(digest); },
        sink);
  }));
  return Underway(plan);
}

Status DeltaFetcher::Make(Plan& plan, const Confinement& limits, const std::function<Status()>& prepare,
                          const std::function<Status(const delta::Sink&)>& make) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(options_.directory, 0700));
  const fs::path made = options_.directory / "made.tmp";
  std::error_code error;
  fs::remove_all(made, error);
  UniqueFd fd(::open(made.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd.valid()) {
    return ErrnoError(Code::kUnavailable, Reason::kStateIo, fmt::format("write '{}'", made.string()), "open",
                      errno);
  }
  Status local;
  std::uint64_t left = plan.size;
  Status status = RunConfined(limits, prepare, make, [&](ByteView piece) -> Status {
    if (piece.size() > left) {
      return MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid, "make image: it comes out too large");
    }
    left -= piece.size();
    local = WriteAll(fd.get(), made, piece);
    return local;
  });
  if (status.ok() && ::fsync(fd.get()) != 0)
    status = local = ErrnoError(Code::kUnavailable, Reason::kStateIo, "write image", "fsync", errno);
  if (status.ok()) status = local = fd.Close();
  if (!status.ok()) {
    fs::remove(made, error);
    // What the child says of this machine is not believed.
    if (IsLocal(local)) return local;
    NextWay(plan, status);
    return OkStatus();
  }
  // The fetcher of whole objects hashes it and fetches it where it is something else.
  fs::rename(made, options_.directory / plan.image.hex(), error);
  if (error) {
    return MakeError(Code::kUnavailable, Reason::kStateIo,
                     fmt::format("rename '{}': {}", made.string(), error.message()));
  }
  plan.way = Way::kWhole;
  return SyncDirectory(options_.directory);
}

}  // namespace sealift::agent
