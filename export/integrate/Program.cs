// A classifier on ONNX Runtime in C#: feeds a raw float32 file, prints the likeliest classes.
//
//   dotnet new console && dotnet add package Microsoft.ML.OnnxRuntime
//   dotnet run -- BUNDLE input.bin
//
// input.bin is the prepared picture, channel by channel; see contract.md of edgepress for the steps.

using System.Runtime.InteropServices;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

// CONSTANTS

var floats = MemoryMarshal.Cast<byte, float>(File.ReadAllBytes(args[1])).ToArray();
var labels = File.ReadAllLines(Path.Combine(args[0], "integrate", "labels.txt"));

using var options = new SessionOptions();
var cpuinfo = "/proc/cpuinfo";
var isX64 = RuntimeInformation.ProcessArchitecture == Architecture.X64;
if (isX64 && File.Exists(cpuinfo) && !File.ReadAllText(cpuinfo).Contains("vnni"))
    options.AddSessionConfigEntry("session.x64quantprecision", "1");  // int8 products are added in 16 bits there

using var session = new InferenceSession(Path.Combine(args[0], model), options);
var tensor = new DenseTensor<float>(floats, shape);
using var results = session.Run(new[] { NamedOnnxValue.CreateFromTensor(input, tensor) });
var logits = results.First(one => one.Name == output).AsEnumerable<float>().ToArray();

var powers = logits.Select(one => Math.Exp(one - logits.Max())).ToArray();
foreach (var (power, at) in powers.Select((power, at) => (power, at)).OrderByDescending(one => one.power).Take(5))
    Console.WriteLine($"{labels[at]} {power / powers.Sum():F4}");
