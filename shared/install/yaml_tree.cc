#include "shared/install/yaml_tree.h"

#include <fmt/format.h>
#include <yaml.h>

#include <algorithm>
#include <optional>

namespace sealift {
namespace {

Status Invalid(std::size_t line, std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInstallConfigInvalid,
                   fmt::format("read install configuration: line {}: {}", line, what));
}

class Parser {
 public:
  explicit Parser(std::string_view text) {
    SEALIFT_CHECK(yaml_parser_initialize(&parser_) == 1);
    // libyaml asserts that there is a pointer.
    const char* begin = text.empty() ? "" : text.data();
    yaml_parser_set_input_string(&parser_, reinterpret_cast<const unsigned char*>(begin), text.size());
    yaml_parser_set_encoding(&parser_, YAML_UTF8_ENCODING);
  }
  Parser(const Parser&) = delete;
  Parser& operator=(const Parser&) = delete;
  ~Parser() {
    Drop();
    yaml_parser_delete(&parser_);
  }

  Result<YamlNode> Document() {
    SEALIFT_RETURN_IF_ERROR(Next());  // the stream's start
    SEALIFT_RETURN_IF_ERROR(Next());
    YamlNode root{.kind = YamlNode::Kind::kMap};
    if (event_.type == YAML_STREAM_END_EVENT) return root;
    // Whatever else comes here: without directives, a document starts.
    if (event_.data.document_start.version_directive != nullptr ||
        event_.data.document_start.tag_directives.start != event_.data.document_start.tag_directives.end)
      return Invalid(Line(), "directives are not used here");
    SEALIFT_RETURN_IF_ERROR(Next());
    SEALIFT_ASSIGN_OR_RETURN(root, Node(0));
    SEALIFT_RETURN_IF_ERROR(Next());  // the document's end
    SEALIFT_RETURN_IF_ERROR(Next());
    if (event_.type != YAML_STREAM_END_EVENT) return Invalid(Line(), "only one document is read");
    return root;
  }

 private:
  void Drop() {
    if (filled_) yaml_event_delete(&event_);
    filled_ = false;
  }

  Status Next() {
    Drop();
    if (yaml_parser_parse(&parser_, &event_) != 1) {
      const char* problem = parser_.problem == nullptr ? "not YAML" : parser_.problem;
      return Invalid(parser_.problem_mark.line + 1, problem);
    }
    filled_ = true;
    return OkStatus();
  }

  std::size_t Line() const { return event_.start_mark.line + 1; }

  // The node that the current event begins. Leaves its last event current.
  Result<YamlNode> Node(std::size_t depth) {
    if (depth > kMaxYamlDepth) return Invalid(Line(), "too deep");
    if (++nodes_ > kMaxYamlNodes) return Invalid(Line(), "too many values");
    switch (event_.type) {
      case YAML_SCALAR_EVENT:
        return Scalar();
      case YAML_SEQUENCE_START_EVENT:
        return List(depth);
      case YAML_MAPPING_START_EVENT:
        return Map(depth);
      case YAML_ALIAS_EVENT:
        return Invalid(Line(), "aliases are not used here");
      default:
        return Invalid(Line(), "a value is missing");
    }
  }

  Result<YamlNode> Scalar() {
    const auto& scalar = event_.data.scalar;
    if (scalar.anchor != nullptr || scalar.tag != nullptr)
      return Invalid(Line(), "anchors and tags are not used here");
    YamlNode node{.line = Line()};
    node.text.assign(reinterpret_cast<const char*>(scalar.value), scalar.length);
    node.quoted = scalar.style != YAML_PLAIN_SCALAR_STYLE;
    return node;
  }

  Result<YamlNode> List(std::size_t depth) {
    const auto& start = event_.data.sequence_start;
    if (start.anchor != nullptr || start.tag != nullptr)
      return Invalid(Line(), "anchors and tags are not used here");
    YamlNode list{.kind = YamlNode::Kind::kList, .line = Line()};
    for (;;) {
      SEALIFT_RETURN_IF_ERROR(Next());
      if (event_.type == YAML_SEQUENCE_END_EVENT) return list;
      SEALIFT_ASSIGN_OR_RETURN(YamlNode item, Node(depth + 1));
      list.items.push_back(std::move(item));
    }
  }

  Result<YamlNode> Map(std::size_t depth) {
    const auto& start = event_.data.mapping_start;
    if (start.anchor != nullptr || start.tag != nullptr)
      return Invalid(Line(), "anchors and tags are not used here");
    YamlNode map{.kind = YamlNode::Kind::kMap, .line = Line()};
    for (;;) {
      SEALIFT_RETURN_IF_ERROR(Next());
      if (event_.type == YAML_MAPPING_END_EVENT) return map;
      if (event_.type != YAML_SCALAR_EVENT) return Invalid(Line(), "a key must be a word");
      SEALIFT_ASSIGN_OR_RETURN(const YamlNode key, Scalar());
      // YAML 1.1's way to copy another mapping in.
      if (key.text == "<<") return Invalid(Line(), "merge keys are not used here");
      if (map.Find(key.text) != nullptr) return Invalid(Line(), fmt::format("'{}' is there twice", key.text));
      SEALIFT_RETURN_IF_ERROR(Next());
      SEALIFT_ASSIGN_OR_RETURN(YamlNode value, Node(depth + 1));
      map.members.push_back({.key = key.text, .value = std::move(value)});
    }
  }

  yaml_parser_t parser_{};
  yaml_event_t event_{};
  bool filled_ = false;
  std::size_t nodes_ = 0;
};

}  // namespace

const YamlNode* YamlNode::Find(std::string_view key) const {
  const auto found =
      std::find_if(members.begin(), members.end(), [&](const auto& member) { return member.key == key; });
  return found == members.end() ? nullptr : &found->value;
}

bool YamlNode::IsNull() const {
  return kind == Kind::kScalar && !quoted && (text.empty() || text == "~" || text == "null");
}

Result<YamlNode> ParseYaml(std::string_view text) {
  if (text.size() > kMaxYamlBytes) return Invalid(1, fmt::format("larger than {} KiB", kMaxYamlBytes >> 10));
  return Parser(text).Document();
}

}  // namespace sealift
