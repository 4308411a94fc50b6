#include "shared/content/frame_index.h"

#include <fmt/format.h>

#include <iterator>
#include <nlohmann/json.hpp>
#include <unordered_set>

namespace sealift::content {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxIndexBytes = 64u << 20;
constexpr std::uint64_t kMaxPaddingBytes = 3;

Status Malformed(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed, fmt::format("parse frame index: {}", what));
}

bool IsPlain(char c) { return c >= 0x20 && c < 0x7f && c != '%' && c != '"' && c != '\\'; }

std::string Encode(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (IsPlain(c))
      out += c;
    else
      fmt::format_to(std::back_inserter(out), "%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

// Only what Encode gives.
Result<std::string> Decode(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    if (text[0] != '%') {
      out += text[0];
      text.remove_prefix(1);
      continue;
    }
    SEALIFT_ASSIGN_OR_RETURN(const Bytes byte, HexDecode(text.substr(1, 2)));
    if (byte.size() != 1) return Malformed("a name ends within an escape");
    out += static_cast<char>(byte[0]);
    text.remove_prefix(3);
  }
  return out;
}

bool IsSafePath(std::string_view path) {
  if (path.empty() || path.find('\0') != std::string_view::npos) return false;
  while (true) {
    const std::size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
  }
}

// Takes members of one object; the first that is missing or of another kind makes it not ok().
class Members {
 public:
  explicit Members(const Json& object) : object_(object), ok_(object.is_object()) {}

  std::uint64_t Number(const char* name) {
    const Json* value = Find(name);
    return value != nullptr && Expect(value->is_number_unsigned()) ? value->get<std::uint64_t>() : 0;
  }
  std::string Text(const char* name) {
    const Json* value = Find(name);
    if (value == nullptr || !Expect(value->is_string())) return {};
    Result<std::string> text = Decode(value->get_ref<const std::string&>());
    return Expect(text.ok()) ? *std::move(text) : std::string();
  }
  Sha256Digest Digest(const char* name) {
    const Result<Sha256Digest> digest = Sha256Digest::FromHex(Text(name));
    return Expect(digest.ok()) ? *digest : Sha256Digest{};
  }
  const Json& List(const char* name) {
    static const Json kEmpty = Json::array();
    const Json* value = Find(name);
    return value != nullptr && Expect(value->is_array()) ? *value : kEmpty;
  }
  const Json& Object(const char* name) {
    static const Json kEmpty = Json::object();
    const Json* value = Find(name);
    return value != nullptr && Expect(value->is_object()) ? *value : kEmpty;
  }
  bool ok() const { return ok_; }

 private:
  const Json* Find(const char* name) {
    if (!ok_) return nullptr;
    const auto at = object_.find(name);
    return Expect(at != object_.end()) ? &*at : nullptr;
  }
  bool Expect(bool condition) { return ok_ = ok_ && condition; }

  const Json& object_;
  bool ok_;
};

Result<FrameRecord> ParseFrame(const Json& json, std::unordered_set<std::string>& paths) {
  Members members(json);
  FrameRecord frame{.offset = members.Number("offset"),
                    .size = members.Number("size"),
                    .digest = members.Digest("digest"),
                    .raw_size = members.Number("raw_size"),
                    .raw_digest = members.Digest("raw_digest"),
                    .group = members.Text("group")};
  const Json& files = members.List("files");
  if (!members.ok()) return Malformed("a frame lacks a member");
  frame.files.reserve(files.size());
  for (const Json& item : files) {
    Members of_file(item);
    FrameFile file{
        .path = of_file.Text("path"), .size = of_file.Number("size"), .digest = of_file.Digest("digest")};
    if (!of_file.ok()) return Malformed("a file lacks a member");
    if (!IsSafePath(file.path)) return Malformed(fmt::format("unsafe path '{}'", Encode(file.path)));
    if (!paths.insert(file.path).second)
      return Malformed(fmt::format("'{}' occurs twice", Encode(file.path)));
    frame.files.push_back(std::move(file));
  }
  return frame;
}

}  // namespace

std::string SerializeFrameIndex(const FrameIndex& index) {
  std::string out = fmt::format(
      R"({{"format":{},"zstd":{{"version":"{}","level":{}}},"size":{},"digest":"{}","frames":[)",
      kFrameIndexFormat, Encode(index.zstd_version), index.zstd_level, index.size, index.digest.hex());
  const auto to = std::back_inserter(out);
  const char* before_frame = "";
  for (const FrameRecord& frame : index.frames) {
    fmt::format_to(to, R"({}{{"offset":{},"size":{},"digest":"{}","raw_size":{},"raw_digest":"{}",)",
                   before_frame, frame.offset, frame.size, frame.digest.hex(), frame.raw_size,
                   frame.raw_digest.hex());
    fmt::format_to(to, R"("group":"{}","files":[)", Encode(frame.group));
    const char* before_file = "";
    for (const FrameFile& file : frame.files) {
      fmt::format_to(to, R"({}{{"path":"{}","size":{},"digest":"{}"}})", before_file, Encode(file.path),
                     file.size, file.digest.hex());
      before_file = ",";
    }
    out += "]}";
    before_frame = ",";
  }
  out += "]}\n";
  return out;
}

Result<FrameIndex> ParseFrameIndex(std::string_view json) {
  if (json.size() > kMaxIndexBytes) return Malformed("it is larger than 64 MiB");
  const Json root = Json::parse(json, nullptr, false);
  if (!root.is_object()) return Malformed("it is no JSON object");
  Members members(root);
  const std::uint64_t format = members.Number("format");
  if (members.ok() && format != kFrameIndexFormat)
    return Malformed(fmt::format("format {} is not known here", format));
  Members zstd(members.Object("zstd"));
  FrameIndex index{.zstd_version = zstd.Text("version"),
                   .zstd_level = static_cast<int>(zstd.Number("level") & 0xff),
                   .size = members.Number("size"),
                   .digest = members.Digest("digest")};
  const Json& frames = members.List("frames");
  if (!members.ok() || !zstd.ok()) return Malformed("a member is missing");
  std::unordered_set<std::string> paths;
  std::uint64_t end = 0;
  index.frames.reserve(frames.size());
  for (const Json& item : frames) {
    SEALIFT_ASSIGN_OR_RETURN(FrameRecord frame, ParseFrame(item, paths));
    if (frame.offset != end || frame.size == 0 || frame.size > index.size - end)
      return Malformed("frames do not follow each other");
    end += frame.size;
    index.frames.push_back(std::move(frame));
  }
  if (index.size - end > kMaxPaddingBytes) return Malformed("the frames end before the initrd does");
  return index;
}

}  // namespace sealift::content
